"""Writes the field reference, docs/api.md, from the generated CRDs: a table for each kind and each repeated block."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from specop.api.kinds import Kind

Schema = dict[str, Any]
Blocks = dict[tuple[str, str], Schema]
"""Blocks by name and content."""

MIN_SHARED_FIELDS = 3
"""A smaller block reads better where it is used."""

_RULES = "x-kubernetes-validations"
_TABLE = "| field | type | description |\n|---|---|---|"
_INTRO = """# The objects, field by field

Generated from `src/specop/api` by `python -m specop.api.crdgen --write`. Group `specop.dev`, version `v1alpha1`.
`kubectl explain draftedendpoint.spec --recursive` shows the same text; `kubectl get specop` lists all kinds.

**Bold** fields are required. *Fixed* fields may not be added, changed or removed after creation. A stored default is
written into the object; every other default is applied when the operator reads it.
"""


def reference(crds: Mapping[Kind, Schema]) -> str:
    """Return the text of docs/api.md for these CRDs."""
    schemas = {kind: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for kind, crd in crds.items()}
    shared = _shared_blocks(schemas.values())
    sections = [_INTRO, *(_kind_section(kind, schema, shared) for kind, schema in schemas.items())]
    sections.append("## Blocks of several kinds\n")
    sections += [_block_section(name, block, shared) for (name, _), block in shared.items()]
    return "\n".join(sections)


def _kind_section(kind: Kind, schema: Schema, shared: Blocks) -> str:
    scope = "namespaced" if kind.namespaced else "cluster-scoped"
    columns, wide = (" ".join(c.name.upper() for c in kind.columns if c.wide == wide) for wide in (False, True))
    more = f"; with `-o wide` also `{wide}`" if wide else ""
    lines = [
        f"## {kind.model.KIND}\n",
        f"{schema['description']} Short name `{kind.short_name}`, {scope}. Columns: `NAME {columns}`{more}.\n",
        _TABLE,
    ]
    fixed = {
        rule["fieldPath"][1:] for rule in schema["properties"]["spec"].get(_RULES, []) if "oldSelf" in rule["rule"]
    }
    for part in ("spec", "status"):
        if part in schema["properties"]:
            lines += _rows(schema["properties"][part], part, shared, fixed if part == "spec" else set())
    refusals = [f"- `{path}`: {message}" for path, message in _refusals(schema, "", shared)]
    return "\n".join([*lines, "", "Refused by the API server, beyond types and bounds:\n", *refusals, ""])


def _block_section(name: str, block: Schema, shared: Blocks) -> str:
    lines = [f"### {name}\n", _TABLE, *_rows(block, "", shared, set())]
    refusals = [f"- `{path or name}`: {message}" for path, message in _refusals(block, "", shared)]
    return "\n".join([*lines, *(["", "Refused by the API server:\n", *refusals] if refusals else []), ""])


def _rows(block: Schema, path: str, shared: Blocks, fixed: set[str]) -> Iterator[str]:
    """Table rows of all fields below a block, in order; a shared block is one row with a link."""
    required = block.get("required", [])
    for name, member in block.get("properties", {}).items():
        member_path = f"{path}.{name}".lstrip(".")
        link = _key(name, member) in shared
        shown = f"**`{member_path}`**" if name in required else f"`{member_path}`"
        kind = f"[{name}](#{name.lower()})" if link else _type(member)
        yield f"| {shown} | {kind} | {_text(member, fixed=name in fixed)} |"
        if not link:
            body = _body(member)
            yield from _rows(body, member_path + ("[]" if body is not member else ""), shared, set())


def _text(member: Schema, *, fixed: bool) -> str:
    text = member.get("description", "").replace("|", "\\|")
    if "default" in member and member["default"] != {}:
        text += f" Stored default: {json.dumps(member['default'])}."
    return f"{text} *Fixed.*" if fixed else text


def _type(schema: Schema) -> str:
    """Type and bounds in a few characters."""
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return "quantity"
    kind: str = schema["type"]
    if kind == "array":
        keys = schema.get("x-kubernetes-list-map-keys")
        of = "" if _body(schema) is not schema else f" of {_type(schema['items'])}"
        return f"list{of}, at most {schema['maxItems']}" + (f", by {', '.join(keys)}" if keys else "")
    if kind == "object":
        return f"map of {_type(schema['additionalProperties'])}" if "additionalProperties" in schema else "object"
    if "minimum" in schema or "maximum" in schema:
        return f"{kind}, {schema.get('minimum', '')}…{schema.get('maximum', '')}"
    return "time" if schema.get("format") == "date-time" else kind


def _refusals(schema: Schema, path: str, shared: Blocks) -> Iterator[tuple[str, str]]:
    """Rules with words, by path; transition rules are the table's *Fixed*."""
    for rule in schema.get(_RULES, []):
        if "oldSelf" not in rule["rule"]:
            yield (path + rule.get("fieldPath", "")).lstrip("."), rule["message"]
    for name, member in schema.get("properties", {}).items():
        block = shared.get(_key(name, member))
        if block is None:
            yield from _refusals(member, f"{path}.{name}", shared)
        else:
            extra = [rule for rule in _body(member).get(_RULES, []) if rule not in block[_RULES]]
            yield from _refusals({_RULES: extra}, f"{path}.{name}", shared)
    for key, suffix in (("items", "[]"), ("additionalProperties", "{}")):
        if key in schema:
            yield from _refusals(schema[key], path + suffix, shared)


def _shared_blocks(schemas: Iterable[Schema]) -> Blocks:
    """Blocks that occur at least twice under the same name, in order of appearance, with the rules of every use."""
    seen: Counter[tuple[str, str]] = Counter()
    blocks: Blocks = {}

    def walk(schema: Schema) -> None:
        for name, member in _body(schema).get("properties", {}).items():
            key = _key(name, member)
            seen[key] += 1
            block = blocks.setdefault(key, dict(_body(member)))
            block[_RULES] = [rule for rule in block.get(_RULES, []) if rule in _body(member).get(_RULES, [])]
            if seen[key] == 1:
                walk(member)

    for schema in schemas:
        for part in ("spec", "status"):
            walk(schema["properties"].get(part, {}))
    large = {key for key, count in seen.items() if count > 1}
    return {key: block for key, block in blocks.items() if key in large and _is_large(block)}


def _is_large(block: Schema) -> bool:
    return len(block.get("properties", {})) >= MIN_SHARED_FIELDS


def _body(schema: Schema) -> Schema:
    """Fields of a list's items, or of the block itself."""
    items: Schema = schema.get("items", {})
    return items if "properties" in items else schema


def _key(name: str, schema: Schema) -> tuple[str, str]:
    """Name and content of a block; what is said at one use (description, default, rules) does not count."""
    return name, json.dumps(_bare(_body(schema)), sort_keys=True)


def _bare(schema: Schema) -> Schema:
    bare = {key: value for key, value in schema.items() if key not in ("description", "default", _RULES)}
    if "properties" in bare:
        bare["properties"] = {name: _bare(member) for name, member in bare["properties"].items()}
    for key in ("items", "additionalProperties"):
        if key in bare:
            bare[key] = _bare(bare[key])
    return bare
