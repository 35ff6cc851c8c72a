"""What a model is for, as its own files say: text, embeddings, or scores. `task` in models.toml goes before it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edged.errors import RefusedFile
from edged.store import gguf_header
from edged.types import EngineName, Task

#: llama.cpp's architectures that only encode.
_ENCODERS = frozenset({
    "bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert", "eurobert",
    "gemma-embedding", "t5encoder",
})
#: llama.cpp's enum llama_pooling_type: mean, cls, last; and a head that ranks.
_POOLED, _RANKS = (1, 2, 3), 4

#: Where a file of the model lies, by its path in it; None where it has no such file.
Find = Callable[[str], Path | None]


def task_of(engine: EngineName, entry: str, find: Find) -> Task:
    """entry: the engine's entry file. Of a file that cannot be read it says `generate`: the engine refuses it in its
    turn, and knows why. Raises RefusedFile for an ONNX graph without a configuration that makes it either."""
    if engine == "llama":
        return _of_gguf(entry, find)
    if engine == "fake":
        said = _json(entry, find).get("task")
        return said if said in ("embed", "rerank") else "generate"
    if entry.endswith("genai_config.json"):
        return "generate"
    return of_configuration(_json("config.json", find), has_modules=find("modules.json") is not None)


def of_configuration(config: dict[str, Any], *, has_modules: bool) -> Task:
    """Of an encoder, as transformers' config.json and sentence-transformers' modules.json say. Raises RefusedFile."""
    named = config.get("architectures") or []
    architectures = [str(one) for one in named] if isinstance(named, list) else []
    if any(one.endswith("ForSequenceClassification") for one in architectures):
        return "rerank"
    if any(one.endswith(("ForCausalLM", "ForConditionalGeneration")) for one in architectures) and not has_modules:
        raise RefusedFile(
            f"config.json says {architectures[0]}: a model that writes text, which onnxruntime serves with a "
            "genai_config.json only; convert its original with `edged convert`, or take a GGUF")
    return "embed"


def _of_gguf(entry: str, find: Find) -> Task:
    file = find(entry)
    try:
        header = gguf_header.read(file) if file is not None else {}
    except (gguf_header.NotGguf, OSError):
        return "generate"
    architecture = header.get("general.architecture")
    pooling = header.get(f"{architecture}.pooling_type")
    if pooling == _RANKS or f"{architecture}.classifier.output_labels" in header:
        return "rerank"
    return "embed" if pooling in _POOLED or architecture in _ENCODERS else "generate"


def _json(path: str, find: Find) -> dict[str, Any]:
    file = find(path)
    if file is None:
        return {}
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
