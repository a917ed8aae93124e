"""Rows that their senders marked as not for training: told by a few keys, before anything else of a row is looked at.

Known marks, each true, "true", "1" or "yes" (any other text in a header counts, too):

    any format         noTrain, no_train, and the same in metadata; the header X-Specop-No-Train in headers,
                       request_headers, metadata.headers
    LiteLLM            metadata.requester_metadata.no_train; the tag no-train in request_tags
    Langfuse           the tag no-train in tags
    SageMakerCapture   no-train=true in eventMetadata.customAttributes
    BedrockInvocation  requestMetadata.no_train
"""

from collections.abc import Iterator, Sequence
from typing import Any

from specop.data.formats import Json

_HEADER = "x-specop-no-train"
_TAG = "no-train"
_NAMES = ("noTrain", "no_train", "no-train")
_HOLDERS = ("metadata", "metadata.requester_metadata", "requestMetadata")
_HEADERS = ("headers", "request_headers", "metadata.headers", "metadata.requester_custom_headers")
_TAGS = ("request_tags", "tags", "metadata.tags")
_PLACES = frozenset({path.split(".")[0] for path in (*_HOLDERS, *_HEADERS, *_TAGS)}) | {"eventMetadata"}
_NO = (None, False, 0, "", "0", "false", "no", "off")


def withheld(row: Json, fields: Sequence[str] = ()) -> bool:
    """Whether a row is marked as not for training; `fields` are paths of marks of the user's own."""
    if any(_is_set(row.get(name)) for name in _NAMES) or any(_is_set(_at(row, path)) for path in fields):
        return True
    if not any(
        key in row
        for key in (
            "metadata",
            "requestMetadata",
            "headers",
            "request_headers",
            "request_tags",
            "tags",
            "eventMetadata",
        )
    ):
        return False
    holders = (_at(row, path) for path in _HOLDERS)
    if any(isinstance(holder, dict) and any(_is_set(holder.get(name)) for name in _NAMES) for holder in holders):
        return True
    return _HEADER in _marks(row)


def _marks(row: Json) -> Iterator[str]:
    """Yield the mark's name for each header, tag or attribute that sets it."""
    for path in _HEADERS:
        headers = _at(row, path)
        if isinstance(headers, dict):
            yield from (_HEADER for name, value in headers.items() if name.lower() == _HEADER and _is_set(value))
    for path in _TAGS:
        tags = _at(row, path)
        if isinstance(tags, list) and _TAG in tags:
            yield _HEADER
    attributes = _at(row, "eventMetadata.customAttributes")
    for attribute in _attributes(attributes):
        name, _, value = attribute.partition("=")
        if name.strip().lower() in (_TAG, "no_train") and _is_set(value.strip() or "true"):
            yield _HEADER


def _attributes(value: Any) -> list[str]:
    if isinstance(value, list):
        return [item for item in value if isinstance(item, str)]
    return value.replace(";", ",").split(",") if isinstance(value, str) else []


def _at(row: Json, path: str) -> Any:
    value: Any = row
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _is_set(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lower() not in _NO
    return not isinstance(value, list | dict) and value not in _NO
