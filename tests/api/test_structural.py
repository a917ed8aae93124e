"""The checker refuses what an API server would, and what it would only refuse later; the converter never guesses."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from specop.api.base import Model, Resource, exactly_one
from specop.api.markers import Cel, Immutable, IntOrString, ListMap, ListSet, ServerDefault, Worded
from specop.api.schema import NotStructuralError, object_schema
from specop.api.structural import check_structural

TEXT = {"type": "string", "maxLength": 10}
NAMED = {"type": "object", "properties": {"name": TEXT}}


def spec(**keywords: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"spec": {"type": "object", **keywords}}}


def field(**keywords: Any) -> dict[str, Any]:
    return spec(properties={"f": keywords})


def a_list(**keywords: Any) -> dict[str, Any]:
    return field(type="array", maxItems=3, **keywords)


def list_map(*keys: str, items: dict[str, Any]) -> dict[str, Any]:
    return a_list(items=items, **{"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)})


GOOD = {
    "text": field(**TEXT),
    "enum": field(type="string", enum=["A"], default="A"),
    "quantity": field(**{"x-kubernetes-int-or-string": True, "maxLength": 9}),
    "list-map": list_map("name", items={**NAMED, "required": ["name"]}),
    "key with a default": list_map("name", items={"type": "object", "properties": {"name": {**TEXT, "default": "a"}}}),
    "set": a_list(items=TEXT, **{"x-kubernetes-list-type": "set"}),
    "map": field(type="object", additionalProperties=TEXT, maxProperties=3),
    "empty block": field(type="object", properties={}, default={}),
    "name of the object": {**field(**TEXT), "properties": {"metadata": {"type": "object", "properties": {"name": {}}}}},
}

BAD = {
    "reference": (
        field(**{"$ref": "#/x"}),
        [".spec.f: $ref is not allowed", ".spec.f: type None is not one of array, boolean, integer, object, string"],
    ),
    "union": (field(**TEXT, anyOf=[]), [".spec.f: anyOf is not allowed"]),
    "title": (field(**TEXT, title="F"), [".spec.f: title is not allowed"]),
    "float": (field(type="number"), [".spec.f: type number is not one of array, boolean, integer, object, string"]),
    "int-or-string with type": (
        field(type="string", maxLength=9, **{"x-kubernetes-int-or-string": True}),
        [".spec.f: an int-or-string has no type"],
    ),
    "long text": (field(type="string"), [".spec.f: a string needs maxLength or enum"]),
    "long list": (field(type="array", items=TEXT), [".spec.f: a list needs maxItems"]),
    "list of anything": (a_list(), [".spec.f: a list needs items"]),
    "long text in a list": (a_list(items={"type": "string"}), [".spec.f[]: a string needs maxLength or enum"]),
    "large map": (field(type="object", additionalProperties=TEXT), [".spec.f: a map needs maxProperties"]),
    "map of anything": (
        field(type="object", additionalProperties=True),
        [".spec.f: a map needs the schema of its values"],
    ),
    "map with fields": (
        field(type="object", properties={}, additionalProperties=TEXT, maxProperties=3),
        [".spec.f: properties and additionalProperties exclude each other"],
    ),
    "set of blocks": (a_list(items=NAMED, **{"x-kubernetes-list-type": "set"}), [".spec.f: a set holds scalars"]),
    "list-map without keys": (list_map(items=NAMED), [".spec.f: a list-map needs keys"]),
    "unknown key": (list_map("id", items=NAMED), [".spec.f: key id is no scalar of the items"]),
    "optional key": (list_map("name", items=NAMED), [".spec.f: key name must be required or have a default"]),
    "unknown required": (spec(required=["g"], properties={}), [".spec: required g is not described"]),
    "required with default": (
        spec(required=["f"], properties={"f": {**TEXT, "default": "a"}}),
        [".spec: f is required and has a default"],
    ),
    "default of another type": (field(type="integer", default=True), [".spec.f: default True is no integer"]),
    "default out of the enum": (
        field(type="string", enum=["A"], default="B"),
        [".spec.f: default 'B' is not in the enum"],
    ),
    "default that is pruned": (
        field(type="object", properties={}, default={"g": 1}),
        [".spec.f: default with unknown or missing fields ['g']"],
    ),
    "rule without words": (
        field(**TEXT, **{"x-kubernetes-validations": [{"rule": "true"}]}),
        [".spec.f: a rule needs an expression and a message of one line"],
    ),
    "labels described": (
        {"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {}}}}},
        ["metadata: only name and generateName may be described"],
    ),
}


@pytest.mark.parametrize("case", GOOD)
def test_structural_schemas_pass(case: str) -> None:
    assert check_structural(GOOD[case]) == []


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_structural_or_not_bounded_is_named_with_its_path(case: str) -> None:
    schema, problems = BAD[case]
    assert check_structural(schema) == problems


def resource(spec_type: Any) -> type[Resource]:
    """A kind whose spec has one field `f` of this type."""
    spec_model = type("Spec", (Model,), {"__annotations__": {"f": spec_type}, "__doc__": "A spec."})
    return type(
        "Thing",
        (Resource,),
        {"__annotations__": {"spec": spec_model}, "KIND": "Thing", "PLURAL": "things", "__doc__": "A thing."},
    )


class Tree(Model):
    """Contains itself."""

    child: "Tree | None" = None


class Deep(Model):
    """An immutable field below spec's own."""

    g: Annotated[int, Immutable()]


IMPOSSIBLE = {
    "union": (int | bool, "spec.f: unions are modelled as optional blocks"),
    "recursion": (Tree, "spec.f.child: Tree contains itself"),
    "free map": (dict[str, Any], "spec.f: a map needs typed values"),
    "tuple": (tuple[int, str], "spec.f: no structural equivalent of"),
    "anything": (Any, "spec.f: no structural equivalent of a value of any type"),
    "set": (set[str], "spec.f: no structural equivalent of ['uniqueItems']"),
    "exclusive bound": (Annotated[int, Field(gt=0)], "spec.f: no structural equivalent of ['exclusiveMinimum']"),
    "immutable below spec": (Deep, "spec.f.g: only fields of spec itself can be immutable"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_has_no_equivalent_is_refused_with_its_path(case: str) -> None:
    type_, message = IMPOSSIBLE[case]
    with pytest.raises(NotStructuralError) as refusal:
        object_schema(resource(type_))
    assert message in str(refusal.value)


class Block(Model):
    """A block of its own."""

    RULES = (exactly_one("a", "b"),)

    a: int | None = None
    b: int | None = Field(default=7, description="Seven, mostly.")


Short = Annotated[str, Field(max_length=9, pattern=r"^\d+'$"), Worded("must be digits")]

CONVERTED: dict[str, tuple[Any, dict[str, Any]]] = {
    "optional": (Annotated[int, Field(ge=1, le=3)] | None, {"type": "integer", "minimum": 1, "maximum": 3}),
    "one value": (Literal["A"], {"type": "string", "enum": ["A"]}),
    "values": (Literal["A", "B"] | None, {"type": "string", "enum": ["A", "B"]}),
    "stored default": (Annotated[bool, ServerDefault(True)], {"type": "boolean", "default": True}),
    "set": (
        Annotated[list[int], ListSet()],
        {"type": "array", "items": {"type": "integer"}, "x-kubernetes-list-type": "set"},
    ),
    "list-map": (
        Annotated[list[int], ListMap(("a", "b"))],
        {
            "type": "array",
            "items": {"type": "integer"},
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["a", "b"],
        },
    ),
    "worded pattern": (
        Short,
        {
            "type": "string",
            "maxLength": 9,
            "pattern": "^\\d+'$",
            "x-kubernetes-validations": [{"rule": "self.matches('^\\\\d+\\'$')", "message": "must be digits"}],
        },
    ),
    "quantity": (Annotated[str, IntOrString()], {"x-kubernetes-int-or-string": True}),
    "map": (
        Annotated[dict[str, int], Field(max_length=2)],
        {"type": "object", "maxProperties": 2, "additionalProperties": {"type": "integer"}},
    ),
    "block with rules of its own and of this use": (
        Annotated[Block, Cel("true", "here")] | None,
        {
            "type": "object",
            "description": "A block of its own.",
            "properties": {
                "a": {"type": "integer"},
                "b": {"type": "integer", "description": "Seven, mostly. Default: 7."},
            },
            "x-kubernetes-validations": [
                {
                    "rule": "(has(self.a) ? 1 : 0) + (has(self.b) ? 1 : 0) == 1",
                    "message": "set exactly one of: a, b",
                },
                {"rule": "true", "message": "here"},
            ],
        },
    ),
}


@pytest.mark.parametrize("case", CONVERTED)
def test_conversion(case: str) -> None:
    type_, schema = CONVERTED[case]
    assert object_schema(resource(type_))["properties"]["spec"]["properties"]["f"] == schema


def test_an_immutable_field_is_one_rule_on_spec() -> None:
    assert object_schema(resource(Annotated[int, Immutable()]))["properties"]["spec"]["x-kubernetes-validations"] == [
        {
            "rule": "has(self.f) == has(oldSelf.f) && (!has(self.f) || self.f == oldSelf.f)",
            "message": "f may not be added, changed or removed after creation: make a new Thing with another name",
            "fieldPath": ".f",
            "reason": "FieldValueForbidden",
        }
    ]
