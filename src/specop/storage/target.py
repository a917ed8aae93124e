"""The target model as files in object storage: what identifies it, and how it gets onto a disk.

Its fingerprint is over bytes, never over etags or times, so that an upload by another tool or to another store does not
change it; weight files are sampled (first, middle and last MiB), so that it is read in seconds. Code that lies beside
the weights is neither downloaded nor run.
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from specop.api import reasons
from specop.api.shared import TargetFacts, TargetSizes
from specop.common.errors import UserError
from specop.common.hashing import canonical_json, digest, sha256_hex
from specop.storage.base import ObjectInfo, Store, download
from specop.storage.uri import join

CONFIG = "config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
TEMPLATE = "chat_template.jinja"
_WEIGHTS = ".safetensors"
_WANTED = (".json", ".jinja", ".txt", ".model", _WEIGHTS)
_SAMPLE = 1 << 20
_THREADS = 8


def target_facts(store: Store, uri: str) -> TargetFacts:
    """Return what identifies and describes a target.

    Raises UserError: TargetNotFound (no folder, no config.json), TargetWithoutTokenizer (no tokenizer.json),
    TargetUnsupported (no safetensors, or a configuration without the sizes of a language model).
    """
    files = _files(store, uri)
    config = store.get(files[CONFIG].uri)
    weights = [info for name, info in sorted(files.items()) if name.endswith(_WEIGHTS)]
    if not weights:
        raise UserError(
            reasons.TARGET_UNSUPPORTED, f"{uri} has no *.safetensors files: other weight formats are not read."
        )
    tokenizer = {name: store.get(files[name].uri) for name in TOKENIZER_FILES if name in files}
    tokenizer_hash = digest({name: sha256_hex(data) for name, data in tokenizer.items()})
    template = _template(store, files, tokenizer)
    template_hash = f"sha256:{sha256_hex(template)}"
    generation = store.get(files["generation_config.json"].uri) if "generation_config.json" in files else b""
    with ThreadPoolExecutor(_THREADS) as pool:
        samples = list(pool.map(lambda info: _sample(store, info), weights))
    fingerprint = digest(
        {
            "config": sha256_hex(config),
            "generation": sha256_hex(generation),
            "tokenizer": tokenizer_hash,
            "template": template_hash,
            "weights": [
                [info.uri.rpartition("/")[2], info.size, sample] for info, sample in zip(weights, samples, strict=True)
            ],
        }
    )
    return TargetFacts(
        fingerprint=fingerprint,
        tokenizer_hash=tokenizer_hash,
        chat_template_hash=template_hash,
        **describe(_json(config, files[CONFIG].uri), uri, sum(info.size for info in weights)),
    )


def target_files(store: Store, uri: str) -> list[ObjectInfo]:
    """Files of a target that an engine needs, in order of their names: configuration, tokenizer, template and weights.

    Raises UserError: TargetNotFound, TargetWithoutTokenizer.
    """
    return [info for name, info in sorted(_files(store, uri).items()) if name.endswith(_WANTED)]


def download_target(store: Store, uri: str, folder: Path, *, weights: bool = True) -> None:
    """Download a target's files into `folder`: configuration, tokenizer and template, and its weights if wanted.

    Raises UserError: TargetNotFound, TargetWithoutTokenizer.
    """
    names = [name for name in _files(store, uri) if name.endswith(_WANTED) and (weights or not name.endswith(_WEIGHTS))]
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda name: download(store, join(uri, name), folder / name), names))


def _files(store: Store, uri: str) -> dict[str, ObjectInfo]:
    """Files that lie directly in the folder, by name; at least a configuration and a tokenizer."""
    folder = join(uri, "")
    names = {info.uri.removeprefix(folder): info for info in store.list(folder)}
    files = {name: info for name, info in names.items() if name and "/" not in name}
    if CONFIG not in files:
        raise UserError(
            reasons.TARGET_NOT_FOUND,
            f"{folder} holds no {CONFIG}: target.uri must be the folder with configuration, tokenizer and weights.",
        )
    if "tokenizer.json" not in files:
        raise UserError(
            reasons.TARGET_WITHOUT_TOKENIZER,
            f"{folder} holds no tokenizer.json: save the model's fast tokenizer beside it.",
        )
    return files


def _template(store: Store, files: dict[str, ObjectInfo], tokenizer: dict[str, bytes]) -> bytes:
    """Bytes of the chat template: its own file, else what tokenizer_config.json holds; empty where there is none."""
    if TEMPLATE in files:
        return store.get(files[TEMPLATE].uri)
    name = "tokenizer_config.json"
    inside = _json(tokenizer[name], files[name].uri).get("chat_template") if name in tokenizer else None
    return canonical_json(inside) if inside else b""


def _sample(store: Store, info: ObjectInfo) -> str:
    hasher = hashlib.sha256()
    if info.size <= 3 * _SAMPLE:
        hasher.update(store.get(info.uri))
    else:
        for start in (0, (info.size - _SAMPLE) // 2, info.size - _SAMPLE):
            hasher.update(store.get_range(info.uri, start, _SAMPLE))
    return hasher.hexdigest()


def describe(config: dict[str, Any], uri: str, weight_bytes: int) -> dict[str, Any]:
    """Fields of TargetFacts that configuration and size of a target say; raises UserError TargetUnsupported."""
    text = config.get("text_config", config)  # multimodal models keep their language model's sizes there
    sizes = {
        "vocab_size": text.get("vocab_size"),
        "hidden_size": text.get("hidden_size"),
        "num_layers": text.get("num_hidden_layers"),
    }
    missing = [name for name, value in sizes.items() if not isinstance(value, int)]
    if missing:
        raise UserError(
            reasons.TARGET_UNSUPPORTED,
            f"{uri}/{CONFIG} does not say {', '.join(missing)}: not a language model that is known.",
        )
    return {
        **sizes,
        "architecture": next(iter(config.get("architectures") or []), ""),
        "quantization": (config.get("quantization_config") or {}).get("quant_method", "none"),
        "sizes": _sizes(text, weight_bytes),
    }


def _sizes(text: dict[str, Any], weight_bytes: int) -> TargetSizes | None:
    """Sizes of a language model's configuration; None where one is missing or no number."""
    heads = text.get("num_attention_heads") or 0
    width = text.get("moe_intermediate_size") or text.get("intermediate_size")
    try:
        return TargetSizes(
            intermediate_size=int(width) * (text.get("num_experts_per_tok") or 1),  # type: ignore[arg-type]
            num_heads=heads,
            num_kv_heads=text.get("num_key_value_heads") or heads,
            head_dim=text.get("head_dim") or text["hidden_size"] // heads,
            weight_mib=weight_bytes >> 20,
        )
    except (TypeError, ValueError, ArithmeticError):
        return None


def _json(data: bytes, uri: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise UserError(reasons.TARGET_UNSUPPORTED, f"{uri} is not JSON.") from error
    if not isinstance(value, dict):
        raise UserError(reasons.TARGET_UNSUPPORTED, f"{uri} is not a JSON object.")
    return value
