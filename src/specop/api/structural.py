"""Checks a CRD schema before an API server does: structural, bounded, and with rules that say something.

An API server refuses what is not structural, and silently takes what is unbounded until the estimated cost of one more
CEL rule passes its limit. So here every string, list and map needs a bound, whether or not a rule iterates it yet.
"""

from typing import Any

Schema = dict[str, Any]

_TYPES = {"object", "array", "string", "integer", "boolean"}
_KEYWORDS = {
    "type",
    "description",
    "default",
    "enum",
    "format",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "items",
    "minItems",
    "maxItems",
    "properties",
    "required",
    "additionalProperties",
    "maxProperties",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-validations",
}
_PYTHON_TYPES: dict[str, type] = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
_UNBOUNDED_AT_ROOT = {"apiVersion", "kind", "metadata"}
"""Checked by the API server itself."""


def check_structural(schema: Schema) -> list[str]:
    """Return what is wrong with the schema of a whole object, each entry with its path; empty when nothing is."""
    problems = _node(schema, "", skip=_UNBOUNDED_AT_ROOT)
    metadata = schema.get("properties", {}).get("metadata", {})
    if set(metadata) - {"type", "properties"} or set(metadata.get("properties", {})) - {"name", "generateName"}:
        problems.append("metadata: only name and generateName may be described")
    return problems


def _node(schema: Schema, path: str, skip: frozenset[str] | set[str] = frozenset()) -> list[str]:
    """Check one value and what lies below it."""
    here = path or "root"
    problems = [f"{here}: {keyword} is not allowed" for keyword in schema if keyword not in _KEYWORDS]
    kind = schema.get("type")
    if schema.get("x-kubernetes-int-or-string"):
        problems += [f"{here}: an int-or-string has no type"] if kind else _string(schema, here)
    elif kind not in _TYPES:
        problems.append(f"{here}: type {kind} is not one of {', '.join(sorted(_TYPES))}")
    elif kind == "string":
        problems += _string(schema, here)
    elif kind == "array":
        problems += _array(schema, here, path)
    elif kind == "object":
        problems += _object(schema, here, path, skip)
    problems += _default(schema, here)
    for rule in schema.get("x-kubernetes-validations", []):
        if not rule.get("rule") or not rule.get("message") or "\n" in rule.get("message", ""):
            problems.append(f"{here}: a rule needs an expression and a message of one line")
    return problems


def _string(schema: Schema, here: str) -> list[str]:
    bounded = "maxLength" in schema or "enum" in schema
    return [] if bounded else [f"{here}: a string needs maxLength or enum"]


def _array(schema: Schema, here: str, path: str) -> list[str]:
    problems = [] if "maxItems" in schema else [f"{here}: a list needs maxItems"]
    items = schema.get("items")
    if not items:
        return [*problems, f"{here}: a list needs items"]
    list_type = schema.get("x-kubernetes-list-type")
    if list_type == "set" and items.get("type") in ("object", "array"):
        problems.append(f"{here}: a set holds scalars")
    if list_type == "map":
        problems += _list_map(schema, here)
    return problems + _node(items, f"{path}[]")


def _list_map(schema: Schema, here: str) -> list[str]:
    """Keys of a list-map are scalars that every item has."""
    keys = schema.get("x-kubernetes-list-map-keys", [])
    items = schema["items"]
    problems = [] if keys else [f"{here}: a list-map needs keys"]
    for key in keys:
        member = items.get("properties", {}).get(key)
        if member is None or member.get("type") in ("object", "array", None):
            problems.append(f"{here}: key {key} is no scalar of the items")
        elif key not in items.get("required", []) and "default" not in member:
            problems.append(f"{here}: key {key} must be required or have a default")
    return problems


def _object(schema: Schema, here: str, path: str, skip: frozenset[str] | set[str]) -> list[str]:
    properties, values = schema.get("properties"), schema.get("additionalProperties")
    problems = []
    if properties is not None and values is not None:
        problems.append(f"{here}: properties and additionalProperties exclude each other")
    if values is not None:
        if not isinstance(values, dict):
            return [*problems, f"{here}: a map needs the schema of its values"]
        problems += [] if "maxProperties" in schema else [f"{here}: a map needs maxProperties"]
        problems += _node(values, f"{path}{{}}")
    for name in schema.get("required", []):
        member = (properties or {}).get(name)
        if member is None:
            problems.append(f"{here}: required {name} is not described")
        elif "default" in member:
            problems.append(f"{here}: {name} is required and has a default")
    for name, member in (properties or {}).items():
        if name not in skip:
            problems += _node(member, f"{path}.{name}")
    return problems


def _default(schema: Schema, here: str) -> list[str]:
    """Check that a default is valid itself: the API server refuses a CRD whose default it would prune."""
    if "default" not in schema:
        return []
    default: Any = schema["default"]
    kind = schema.get("type", "string")
    if not isinstance(default, _PYTHON_TYPES[kind]) or (isinstance(default, bool) and kind != "boolean"):
        return [f"{here}: default {default!r} is no {kind}"]
    if "enum" in schema and default not in schema["enum"]:
        return [f"{here}: default {default!r} is not in the enum"]
    if isinstance(default, dict):
        unknown = sorted(set(default) - set(schema.get("properties", {})))
        missing = sorted(set(schema.get("required", [])) - set(default))
        return [f"{here}: default with unknown or missing fields {unknown + missing}"] if unknown or missing else []
    return []
