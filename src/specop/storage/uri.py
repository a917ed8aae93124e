"""URIs of objects: taken apart, put together, and patterns expanded.

A URI is `s3://bucket/key` or `file:///absolute/path`, taken literally: nothing is percent-decoded.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from specop.api import reasons
from specop.common.errors import UserError
from specop.storage.base import ObjectInfo, Store


class Location(NamedTuple):
    """A URI in its parts; `bucket` is empty and `key` an absolute path for `file`."""

    scheme: str
    bucket: str
    key: str


def parse(uri: str) -> Location:
    """Take a URI apart; raises UserError(InvalidSpec) on anything that is neither scheme."""
    scheme, separator, rest = uri.partition("://")
    if separator and scheme == "file" and rest.startswith("/"):
        return Location("file", "", rest)
    bucket, _, key = rest.partition("/")
    if separator and scheme == "s3" and bucket:
        return Location("s3", bucket, key)
    raise UserError(reasons.INVALID_SPEC, f"{uri!r} is neither s3://bucket/key nor file:///path.")


def join(uri: str, *parts: str) -> str:
    """Append path segments."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def expand(store: Store, pattern: str) -> Iterator[ObjectInfo]:
    """Objects that a pattern means, in order of their keys.

    `*` stands for anything inside one path segment, `**` across segments. Without either, the one object of that URI
    (raises `NotFound`). A pattern that matches nothing yields nothing.
    """
    if "*" not in pattern:
        yield store.head(pattern)
        return
    wanted = re.compile(_regex(pattern), re.DOTALL)
    for found in store.list(pattern[: pattern.index("*")]):
        if wanted.fullmatch(found.uri):
            yield found


def _regex(pattern: str) -> str:
    signs = {"**/": r"(?:.*/)?", "**": r".*", "*": r"[^/]*"}
    return "".join(signs.get(piece, re.escape(piece)) for piece in re.split(r"(\*\*/|\*\*|\*)", pattern))
