"""From a model to the structural schema that an API server takes (OpenAPI 3.0, a subset).

Pydantic emits JSON Schema 2020-12 with `$ref`, `anyOf` for optional fields and titles; a CRD may hold none of it. What
has no equivalent is refused here with its path, never guessed: unions, recursion, free-form values. Whether the result
is structural and bounded is the business of `structural.py`.

Not here: defaults of models. They are applied when an object is read, so that a later version may choose better ones,
and only named in descriptions; `ServerDefault` alone is written into stored objects.
"""

import json
from typing import Any

from specop.api.base import MAX_OBJECT_NAME, NAME_PATTERN, Resource
from specop.api.markers import EXTENSION

Schema = dict[str, Any]

_KEPT = ("minLength", "maxLength", "pattern", "format", "minimum", "maximum", "minItems", "maxItems", "maxProperties")
_HANDLED = {*_KEPT, "type", "description", "title", "default", "enum", "const", "items", "properties", "required"}
_RULES = "x-kubernetes-validations"

_NAME_RULE = {
    "rule": f"self.metadata.name.size() <= {MAX_OBJECT_NAME} && self.metadata.name.matches('{NAME_PATTERN}')",
    "message": f"must be at most {MAX_OBJECT_NAME} characters, lower-case letters, digits and -, beginning with a "
    "letter: names of pods and Services are made from it",
    "fieldPath": ".metadata.name",
}


class NotStructuralError(TypeError):
    """A model says something that a CRD cannot; the message begins with the field's path."""


def object_schema(model: type[Resource]) -> Schema:
    """Return the schema of a whole object; raises NotStructuralError with the path of what has no equivalent."""
    raw = model.model_json_schema()
    convert = _Converter(raw.pop("$defs"))
    spec = convert.value(raw["properties"]["spec"], "spec")
    immutable = convert.immutable_fields(raw["properties"]["spec"])
    rules = [*spec.pop(_RULES, []), *(_immutable_rule(field, model.KIND) for field in immutable)]
    properties: Schema = {
        "apiVersion": {"type": "string", "description": "Version of this schema: specop.dev/v1alpha1."},
        "kind": {"type": "string", "description": f"{model.KIND}."},
        "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
        "spec": {**spec, **({_RULES: rules} if rules else {})},
    }
    if "status" in raw["properties"]:
        status = _without_rules(convert.value(raw["properties"]["status"], "status"))
        properties["status"] = {**status, "default": {"observedGeneration": -1}}
    own_rules = [entry["cel"] for entry in raw.get(EXTENSION, [])]
    return {
        "type": "object",
        "description": _one_line(raw["description"]),
        "required": ["spec"],
        "properties": properties,
        _RULES: [_NAME_RULE, *own_rules],
    }


class _Converter:
    """Walks one model's JSON schema."""

    def __init__(self, definitions: dict[str, Schema]) -> None:
        self._definitions = definitions

    def value(self, raw: Schema, path: str, inside: tuple[str, ...] = ()) -> Schema:
        """Convert the schema of one value; `inside` names the definitions around it."""
        flat, inside = self._flatten(raw, path, inside)
        markers = _merged(flat.pop(EXTENSION, []))
        unknown = {key for key in flat if key not in _HANDLED and key != "additionalProperties"}
        if unknown or (flat.get("type") is None and "enum" not in flat and "const" not in flat):
            raise NotStructuralError(f"{path}: no structural equivalent of {sorted(unknown) or 'a value of any type'}")
        if "immutable" in markers and path.count(".") != 1:
            raise NotStructuralError(f"{path}: only fields of spec itself can be immutable")
        schema: Schema = {} if "intOrString" in markers else {"type": flat.get("type", "string")}
        if description := _description(flat, with_default=path.startswith("spec") and "default" not in markers):
            schema["description"] = description
        if "const" in flat or "enum" in flat:
            schema["enum"] = flat.get("enum", [flat.get("const")])
        schema.update({key: flat[key] for key in _KEPT if key in flat})
        if flat.get("type") == "array":
            schema["items"] = self.value(flat.get("items", {}), f"{path}[]", inside)
        if flat.get("type") == "object":
            schema.update(self._members(flat, path, inside))
        schema.update(_extensions(markers, flat))
        return schema

    def immutable_fields(self, raw: Schema) -> list[str]:
        """Return the fields of a spec that are marked Immutable."""
        flat, _ = self._flatten(raw, "spec", ())
        return [name for name, member in flat["properties"].items() if self._is_immutable(member)]

    def _is_immutable(self, raw: Schema) -> bool:
        flat, _ = self._flatten(raw, "spec", ())
        return any("immutable" in entry for entry in flat.get(EXTENSION, []))

    def _members(self, flat: Schema, path: str, inside: tuple[str, ...]) -> Schema:
        """Properties of a block, or the values of a map."""
        extra = flat.get("additionalProperties", False)
        if "properties" in flat:
            properties = {
                name: self.value(member, f"{path}.{name}", inside) for name, member in flat["properties"].items()
            }
            required = {"required": flat["required"]} if flat.get("required") else {}
            return {**required, "properties": properties}
        if extra is True:
            raise NotStructuralError(f"{path}: a map needs typed values")
        return {"additionalProperties": self.value(extra, f"{path}{{}}", inside)} if extra else {}

    def _flatten(self, raw: Schema, path: str, inside: tuple[str, ...]) -> tuple[Schema, tuple[str, ...]]:
        """Resolve references and `X | None`; what is said at the use wins over what is said at the definition."""
        outer = dict(raw)
        if "$ref" in outer:
            name = outer.pop("$ref").removeprefix("#/$defs/")
            if name in inside:
                raise NotStructuralError(f"{path}: {name} contains itself")
            inner, inside = self._flatten(self._definitions[name], path, (*inside, name))
        elif "anyOf" in outer or "allOf" in outer:
            options = [
                option for option in outer.pop("anyOf", None) or outer.pop("allOf") if option != {"type": "null"}
            ]
            if len(options) != 1:
                raise NotStructuralError(f"{path}: unions are modelled as optional blocks with an exactly_one rule")
            inner, inside = self._flatten(options[0], path, inside)
        else:
            return outer, inside
        markers = [*inner.get(EXTENSION, []), *outer.get(EXTENSION, [])]
        return {**inner, **outer, **({EXTENSION: markers} if markers else {})}, inside


def _merged(entries: list[Schema]) -> Schema:
    """All markers of one value by name; rules add up in order."""
    merged: Schema = {}
    for entry in entries:
        for name, value in entry.items():
            if name == "cel":
                merged.setdefault("cel", []).append(value)
            else:
                merged[name] = value
    return merged


def _extensions(markers: Schema, flat: Schema) -> Schema:
    """Markers as the API server's own vocabulary."""
    schema: Schema = {}
    if "intOrString" in markers:
        schema["x-kubernetes-int-or-string"] = True
    if "listMap" in markers:
        schema |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": markers["listMap"]}
    if "listSet" in markers:
        schema["x-kubernetes-list-type"] = "set"
    if "default" in markers:
        schema["default"] = markers["default"]
    rules = list(markers.get("cel", []))
    if "worded" in markers:
        value = "string(self)" if "intOrString" in markers else "self"
        rules.insert(0, {"rule": f"{value}.matches({_cel_string(flat['pattern'])})", "message": markers["worded"]})
    if rules:
        schema[_RULES] = rules
    return schema


def _description(flat: Schema, *, with_default: bool) -> str:
    """One line; a default that only the operator applies is named, because no tool could show it otherwise."""
    text = _one_line(flat.get("description", ""))
    default = flat.get("default")
    if not with_default or not text or default is None or default in ("", [], {}):
        return text
    shown = default if isinstance(default, str) else json.dumps(default)
    return f"{text} Default: {shown}."


def _one_line(text: str) -> str:
    return " ".join(text.split("\n\n", maxsplit=1)[0].split())


def _cel_string(text: str) -> str:
    """Quote text for CEL."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _immutable_rule(field: str, kind: str) -> Schema:
    return {
        "rule": f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})",
        "message": f"{field} may not be added, changed or removed after creation: make a new {kind} with another name",
        "fieldPath": f".{field}",
        "reason": "FieldValueForbidden",
    }


def _without_rules(schema: Schema) -> Schema:
    """Drop rules below a node: status is the operator's own, and a refused status would hide the object's state."""
    kept = {key: value for key, value in schema.items() if key != _RULES}
    if "properties" in kept:
        kept["properties"] = {name: _without_rules(member) for name, member in kept["properties"].items()}
    for key in ("items", "additionalProperties"):
        if key in kept:
            kept[key] = _without_rules(kept[key])
    return kept
