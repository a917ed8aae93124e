"""What a model says about itself beyond types: `Annotated[...]` markers that the CRD generator turns into schema.

The models stay plain pydantic: a marker changes nothing at run time.
"""

from dataclasses import dataclass
from typing import Any

from pydantic import GetJsonSchemaHandler
from pydantic_core import CoreSchema

EXTENSION = "x-specop-markers"
"""Key under which markers travel through pydantic's JSON schema to the generator, which removes it."""


@dataclass(frozen=True)
class Marker:
    """Base: writes itself into the field's JSON schema."""

    def entry(self) -> dict[str, Any]:
        """The marker as JSON."""
        raise NotImplementedError

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Called by pydantic; appends the marker beside whatever the field has."""
        schema = handler(core)
        if "$ref" in schema:
            schema = {"allOf": [schema]}
        schema[EXTENSION] = [*schema.get(EXTENSION, []), self.entry()]
        return schema


@dataclass(frozen=True)
class Cel(Marker):
    """A validation rule of the API server on this value; `self` is the value."""

    rule: str
    message: str

    def entry(self) -> dict[str, Any]:
        """See Marker."""
        return {"cel": {"rule": self.rule, "message": self.message}}


@dataclass(frozen=True)
class ListMap(Marker):
    """A list whose items are identified by these keys; two managers may own different items."""

    keys: tuple[str, ...]

    def entry(self) -> dict[str, Any]:
        """See Marker."""
        return {"listMap": list(self.keys)}


@dataclass(frozen=True)
class ListSet(Marker):
    """A list of distinct scalars."""

    def entry(self) -> dict[str, Any]:
        """See Marker."""
        return {"listSet": True}


@dataclass(frozen=True)
class Immutable(Marker):
    """The field of an object's spec may not be added, changed or removed after creation."""

    def entry(self) -> dict[str, Any]:
        """See Marker."""
        return {"immutable": True}


@dataclass(frozen=True)
class IntOrString(Marker):
    """A Kubernetes quantity or port: integer or string."""

    def entry(self) -> dict[str, Any]:
        """See Marker."""
        return {"intOrString": True}


@dataclass(frozen=True)
class ServerDefault(Marker):
    """This default is written into stored objects by the API server, because users must see it."""

    value: Any

    def entry(self) -> dict[str, Any]:
        """See Marker."""
        return {"default": self.value}
