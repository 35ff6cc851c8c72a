"""What the files of a version say of the model: its family, its template and its sizes. For people and clients to read;
engines read the files themselves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from edged.store import gguf_header
from edged.store.entries import Manifest
from edged.store.gguf_header import Scalar
from edged.store.paths import Layout

#: Larger texts are not looked into; a tokenizer's configuration with its template may have some hundred KB.
_TEXT_BYTES = 4 << 20
_INFILL_KEYS = ("tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id")
_TOOLS = re.compile(r"\btools\b")
_THINKING = re.compile(r"<think>|\benable_thinking\b|\breasoning_effort\b|<\|channel\|>")
#: GGUF's names of what config.json says.
_SIZES = {
    "max_position_embeddings": "context_length", "hidden_size": "embedding_length", "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count", "num_key_value_heads": "attention.head_count_kv",
    "vocab_size": "vocab_size",
}


class Metadata(Struct, frozen=True, kw_only=True):
    """family: the architecture's name (`llama`, `qwen3`). values: by GGUF's keys, arrays as None; of other forms the
    sizes that their configuration tells, by the same keys. infills: it has tokens for a text with a gap."""

    family: str
    values: dict[str, Scalar | None] = {}
    chat_template: str | None = None
    infills: bool = False


def takes_tools(chat_template: str) -> bool:
    """It shows the model the functions that it may call."""
    return _TOOLS.search(chat_template) is not None


def thinks(chat_template: str) -> bool:
    """It was made for a model that thinks before it answers."""
    return _THINKING.search(chat_template) is not None


def metadata(layout: Layout, manifest: Manifest) -> Metadata:
    """Takes up to a fraction of a second. What cannot be read is not told; a load names a damaged file."""
    if manifest.file.lower().endswith(".gguf"):
        return _of_gguf(layout, manifest)
    return _of_folder(layout, manifest)


def _of_gguf(layout: Layout, manifest: Manifest) -> Metadata:
    try:
        values = gguf_header.read(_path(layout, manifest, manifest.file))
    except (OSError, KeyError, gguf_header.NotGguf):
        return Metadata(family="")
    template, family = values.pop("tokenizer.chat_template", None), values.get("general.architecture")
    return Metadata(
        family=family if isinstance(family, str) else "", values=values,
        chat_template=template if isinstance(template, str) else None,
        infills=any(key in values for key in _INFILL_KEYS),
    )


def _of_folder(layout: Layout, manifest: Manifest) -> Metadata:
    """An ONNX folder with config.json or genai_config.json; the family of any other is its engine's name."""
    folder = manifest.file.rpartition("/")[0]
    model = _json(layout, manifest, folder, "genai_config.json").get("model")
    config = _json(layout, manifest, folder, "config.json")
    built = model if isinstance(model, dict) else {}
    family = next((said for said in (config.get("model_type"), built.get("type")) if isinstance(said, str) and said),
                  manifest.engine)
    sizes = {key: said for name, key in _SIZES.items() if type(said := config.get(name)) is int}
    if type(context := built.get("context_length")) is int:
        sizes["context_length"] = context
    return Metadata(
        family=family,
        values={"general.architecture": family, **{f"{family}.{key}": size for key, size in sizes.items()}},
        chat_template=_template(layout, manifest, folder),
    )


def _template(layout: Layout, manifest: Manifest, folder: str) -> str | None:
    if (text := _text(layout, manifest, folder, "chat_template.jinja")) is not None:
        return text
    said = _json(layout, manifest, folder, "tokenizer_config.json").get("chat_template")
    if isinstance(said, list):
        said = next((each.get("template") for each in said if isinstance(each, dict) and each.get("name") == "default"),
                    None)
    return said if isinstance(said, str) else None


def _json(layout: Layout, manifest: Manifest, folder: str, name: str) -> dict[str, Any]:
    text = _text(layout, manifest, folder, name)
    try:
        found = msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(layout: Layout, manifest: Manifest, folder: str, name: str) -> str | None:
    try:
        path = _path(layout, manifest, f"{folder}/{name}" if folder else name)
        return path.read_text(encoding="utf-8") if path.stat().st_size <= _TEXT_BYTES else None
    except (OSError, KeyError, UnicodeDecodeError):
        return None


def _path(layout: Layout, manifest: Manifest, name: str) -> Path:
    """Raises KeyError for a file that the version does not have."""
    return layout.blob({entry.path: entry.sha256 for entry in manifest.files}[name])
