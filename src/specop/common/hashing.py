"""Canonical JSON and digests. A digest is always `sha256:<64 hex>`."""

import hashlib
import json
from typing import Any


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256_hex(data: bytes) -> str:
    """64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def digest(value: Any) -> str:
    """Digest of a JSON value in canonical form."""
    return f"sha256:{sha256_hex(canonical_json(value))}"


def short(digest_text: str, length: int = 8) -> str:
    """Return the first hex digits of a digest, for names and columns."""
    return digest_text.removeprefix("sha256:")[:length]
