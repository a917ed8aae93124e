"""Which formats there are, and how a file's format is told by one of its rows.

Each looks for the keys that its documents promise; the first that finds them has the row, so that the narrower formats
stand before the wider.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from specop.api.dataset import RowFormat
from specop.data import corpora, formats, gateways
from specop.data.formats import Exchange, Json

Format = RowFormat | Literal["Prompts", "DatasetRow"]
"""A row's format; the last are of sources whose rows can be nothing else, and are not looked for."""


class _Reader(NamedTuple):
    looks: Callable[[Json], bool]
    """Whether a row has the format's keys."""
    sought: str
    """These keys, for a message."""
    read: Callable[[Json], Exchange]
    """Raises Unusable."""


def _has(*keys: str) -> Callable[[Json], bool]:
    return lambda row: all(key in row for key in keys)


def _is_batch(row: Json) -> bool:
    return "custom_id" in row and "response" in row


def _is_langfuse(row: Json) -> bool:
    traced = "traceId" in row or "trace_id" in row
    return traced and "type" in row and ("input" in row or "output" in row or row["type"] != "GENERATION")


def _is_bedrock(row: Json) -> bool:
    return row.get("schemaType") == "ModelInvocationLog" or ("modelId" in row and "input" in row and "operation" in row)


def _is_tokens(row: Json) -> bool:
    return "input_ids" in row and ("labels" in row or "loss_mask" in row)


_READERS: dict[RowFormat, _Reader] = {
    "SageMakerCapture": _Reader(_has("captureData"), "captureData", gateways.read_sagemaker),
    "BedrockInvocation": _Reader(_is_bedrock, "schemaType: ModelInvocationLog", gateways.read_bedrock),
    "OpenAIBatch": _Reader(_is_batch, "custom_id and response", gateways.read_batch),
    "LiteLLM": _Reader(
        _has("call_type", "messages", "response", "startTime"), "call_type, messages, response", gateways.read_litellm
    ),
    "Capture": _Reader(_has("v", "request", "response"), "v, request and response", formats.read_capture),
    "RequestResponse": _Reader(_has("request", "response"), "request and response", gateways.read_pair),
    "Langfuse": _Reader(_is_langfuse, "traceId, type and input", gateways.read_langfuse),
    "Tokens": _Reader(_is_tokens, "input_ids and labels or loss_mask", corpora.read_tokens),
    "OpenAIChat": _Reader(_has("messages"), "messages", formats.read_chat),
    "ShareGPT": _Reader(_has("conversations"), "conversations", corpora.read_sharegpt),
    "PromptCompletion": _Reader(_has("prompt", "completion"), "prompt and completion", corpora.read_prompt_completion),
    "Text": _Reader(_has("text"), "text", corpora.read_text),
}
SOUGHT = "; ".join(f"{name}: {reader.sought}" for name, reader in _READERS.items())
"""What was looked for, for whoever has another format."""


def detect(row: Json) -> RowFormat | None:
    """Name the format of a file by one of its rows."""
    return next((name for name, reader in _READERS.items() if reader.looks(row)), None)


def read_row(row: Json, row_format: Format) -> Exchange:
    """Read a row of a known format. Raises Unusable."""
    if row_format == "Prompts":
        return corpora.read_prompt(row)
    return corpora.read_dataset_row(row) if row_format == "DatasetRow" else _READERS[row_format].read(row)
