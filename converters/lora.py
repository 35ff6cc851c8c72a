"""A LoRA as peft saves it: adapter_config.json and adapter_model.safetensors, read without peft or torch.

Each linear layer `module` of the base computes W·x + scale·B·(A·x), A of [rank, in] and B of [out, rank]
(arXiv:2106.09685); scale is alpha / rank, or alpha / √rank where the configuration says `use_rslora`
(arXiv:2312.03732). What a serving engine cannot do besides that is refused by name, never left out.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.refuse import ADAPTER_CONFIG, ADAPTER_WEIGHTS, LORA, WRAPPER, check_adapter_config
from converters.tensors import read_header
from edged.errors import CorruptFile, RefusedFile

_MERGE = "merge it instead: `edged convert MODEL --adapter …`"
#: Keys of a LoRA's configuration that change what it computes, and what they stand for.
_BEYOND = {
    "use_dora": "weight decomposition (DoRA)", "modules_to_save": "whole layers of its own",
    "layer_replication": "repeated layers", "target_parameters": "parameters that are no linear layers",
    "trainable_token_indices": "token embeddings of its own", "use_qalora": "grouped inputs (QA-LoRA)",
    "lora_bias": "biases", "fan_in_fan_out": "transposed layers", "arrow_config": "routing (Arrow)",
    "use_bdlora": "block-diagonal factors",
}


#: Beginnings of a training that leave the base as it is; others (PiSSA, OLoRA, CorDA, LoftQ) do not.
_UNTOUCHED = ("gaussian", "eva", "orthogonal")


@dataclass(frozen=True, slots=True)
class Pair:
    """a: [rank, in], b: [out, rank], both in 32 bits."""

    a: NDArray[np.float32]
    b: NDArray[np.float32]
    scale: float

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])

    @property
    def scaled_b(self) -> NDArray[np.float32]:
        return self.b * np.float32(self.scale)


def check_config(path: str, data: bytes) -> dict[str, Any]:
    """adapter_config.json of a LoRA that an engine can serve. Raises RefusedFile."""
    check_adapter_config(path, data)
    config: dict[str, Any] = json.loads(data)
    if (kind := config["peft_type"]) != "LORA":
        raise RefusedFile(f"{path}: an adapter of type {kind} cannot be served beside its model, LoRA can; {_MERGE}")
    if config.get("bias", "none") != "none":
        raise RefusedFile(f"{path}: it has biases of its own, which cannot be served beside a model; {_MERGE}")
    if isinstance(init := config.get("init_lora_weights"), str) and init not in _UNTOUCHED:
        raise RefusedFile(f"{path}: it was begun by {init[:40]}, which changes the weights of the base too, so it "
                          f"cannot be served beside the unchanged one; {_MERGE}")
    for key, words in _BEYOND.items():
        if config.get(key):
            raise RefusedFile(f"{path}: it has {words} ({key}), which cannot be served beside a model; {_MERGE}")
    return config


def read(folder: Path) -> dict[str, Pair]:
    """By module of the base as transformers names it (`model.layers.0.self_attn.q_proj`). Raises RefusedFile for what
    is no plain LoRA, CorruptFile."""
    from safetensors import safe_open

    config = check_config(ADAPTER_CONFIG, (folder / ADAPTER_CONFIG).read_bytes())
    file = folder / ADAPTER_WEIGHTS
    halves: dict[str, dict[str, NDArray[np.float32]]] = {}
    header = read_header(file)
    with safe_open(file, framework="numpy") as opened:
        for name, info in header.items():
            found = LORA.fullmatch(name.removeprefix(WRAPPER))
            if found is None or found["embedding"]:
                raise RefusedFile(f"the adapter's {name[:120]} is no part of a linear layer's LoRA, so it cannot be "
                                  f"served beside a model; {_MERGE}")
            if len(info.shape) != 2 or not all(info.shape):
                raise RefusedFile(f"the adapter's {name[:120]} has the shape {list(info.shape)}; a LoRA of linear "
                                  "layers has matrices")
            halves.setdefault(found["module"], {})[found["half"]] = _floats(opened, file, name, info.dtype)
    if not halves:
        raise RefusedFile(f"{ADAPTER_WEIGHTS} holds no LoRA")
    return {module: _pair(module, parts, config) for module, parts in sorted(halves.items())}


def _pair(module: str, parts: dict[str, NDArray[np.float32]], config: dict[str, Any]) -> Pair:
    if parts.keys() != {"A", "B"}:
        raise CorruptFile(f"the adapter has only one half of {module[:120]}; save it again with save_pretrained")
    a, b = parts["A"], parts["B"]
    if a.shape[0] != b.shape[1]:
        raise CorruptFile(f"the halves of {module[:120]} are {list(a.shape)} and {list(b.shape)}, which do not fit "
                          "each other; save the adapter again with save_pretrained")
    try:
        alpha = float(_of_module(module, config.get("alpha_pattern"), config["lora_alpha"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFile(f"{ADAPTER_CONFIG} says no `lora_alpha`; save the adapter again with save_pretrained") \
            from error
    rank = a.shape[0]
    return Pair(a, b, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _of_module(module: str, pattern: Any, otherwise: Any) -> Any:
    """As peft looks it up (`get_pattern_key`): the first key that is the module's name, or an end of it after a dot; it
    may be a regular expression."""
    for key, value in (pattern.items() if isinstance(pattern, dict) else ()):
        try:
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        except re.error as error:
            raise RefusedFile(f"{ADAPTER_CONFIG}: the pattern {str(key)[:80]!r} is no regular expression") from error
    return otherwise


def _floats(opened: Any, file: Path, name: str, dtype: str) -> NDArray[np.float32]:
    if dtype == "BF16":
        return _bfloats(file, name)
    if dtype not in ("F32", "F16", "F64"):
        raise RefusedFile(f"the adapter's {name[:120]} is {dtype}; save it in 16 or 32 bits")
    array: NDArray[np.float32] = opened.get_tensor(name).astype(np.float32)
    return array


def _bfloats(file: Path, name: str) -> NDArray[np.float32]:
    """numpy has no such type: they are the upper halves of 32-bit floats."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        entry = json.loads(stream.read(length))[name]
        begin, end = entry["data_offsets"]
        stream.seek(8 + length + begin)
        upper = np.frombuffer(stream.read(end - begin), np.dtype("<u2")).astype(np.uint32)
    return (upper << 16).view(np.float32).reshape(entry["shape"])
