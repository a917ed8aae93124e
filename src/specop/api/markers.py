"""What a model says about itself beyond types: `Annotated[...]` markers that the CRD generator turns into schema.

The models stay plain pydantic: a marker changes nothing at run time.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from pydantic import GetJsonSchemaHandler
from pydantic_core import CoreSchema

EXTENSION = "x-specop-markers"
"""Key under which markers travel through pydantic's JSON schema to the generator, which removes it."""


@dataclass(frozen=True)
class Marker(ABC):
    """Base: writes itself into the field's JSON schema."""

    @abstractmethod
    def entry(self) -> dict[str, Any]:
        """Return the marker as JSON."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Append the marker beside whatever the field has; pydantic calls this."""
        schema = handler(core)
        if "$ref" in schema:
            schema = {"allOf": [schema]}
        schema[EXTENSION] = [*schema.get(EXTENSION, []), self.entry()]
        return schema


@dataclass(frozen=True)
class Cel(Marker):
    """A validation rule of the API server on this value; `self` is the value.

    `field` is the path of the field below `self` that the refusal should point to, such as `.suspend`.
    """

    rule: str
    message: str
    field: str = ""

    def entry(self) -> dict[str, Any]:
        """Return the marker as JSON."""
        where = {"fieldPath": self.field} if self.field else {}
        return {"cel": {"rule": self.rule, "message": self.message, **where}}


@dataclass(frozen=True)
class Worded(Marker):
    """Says in words what the field's pattern asks for: the API server's own message quotes only the expression."""

    message: str

    def entry(self) -> dict[str, Any]:
        """Return the marker as JSON."""
        return {"worded": self.message}


@dataclass(frozen=True)
class ListMap(Marker):
    """A list whose items are identified by these keys; two managers may own different items."""

    keys: tuple[str, ...]

    def entry(self) -> dict[str, Any]:
        """Return the marker as JSON."""
        return {"listMap": list(self.keys)}


@dataclass(frozen=True)
class ListSet(Marker):
    """A list of distinct scalars."""

    def entry(self) -> dict[str, Any]:
        """Return the marker as JSON."""
        return {"listSet": True}


@dataclass(frozen=True)
class Immutable(Marker):
    """The field of an object's spec may not be added, changed or removed after creation."""

    def entry(self) -> dict[str, Any]:
        """Return the marker as JSON."""
        return {"immutable": True}


@dataclass(frozen=True)
class IntOrString(Marker):
    """A Kubernetes quantity or port: integer or string."""

    def entry(self) -> dict[str, Any]:
        """Return the marker as JSON."""
        return {"intOrString": True}


@dataclass(frozen=True)
class ServerDefault(Marker):
    """The API server writes this default into stored objects, because users must see it."""

    value: Any

    def entry(self) -> dict[str, Any]:
        """Return the marker as JSON."""
        return {"default": self.value}
