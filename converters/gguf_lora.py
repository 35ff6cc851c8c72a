"""A LoRA for a GGUF base: written from what peft saved, or taken as it is where it is a GGUF already; both checked
against the base before any engine sees them.

Format: llama.cpp's src/llama-adapter.cpp and convert_lora_to_gguf.py. A is written as [rank, in] and B as [out, rank]
under the base tensor's name with `.lora_a` and `.lora_b`; llama.cpp scales by `adapter.lora.alpha` / rank, or by 1
where alpha is 0. Rows of B lie as those of the base's weight do (`Family.permuted`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np

from converters.gguf_families import FAMILIES, heads_of, in_pairs
from converters.lora import Pair
from edged.errors import CorruptFile, RefusedFile

_HALVES = (".lora_a", ".lora_b")
_ADVICE = ("make the adapter with llama.cpp's convert_lora_to_gguf.py and pull that file, or merge it: `edged convert "
           "MODEL --adapter …`")


@dataclass(frozen=True, slots=True)
class Base:
    """What of a GGUF model decides on its adapters. shapes: of its tensors, as numpy has them ([out, in])."""

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    shapes: Mapping[str, tuple[int, ...]]


def read_base(files: Sequence[Path]) -> Base:
    """files: of one model, which may be split. Raises CorruptFile."""
    readers = [_open(file) for file in files]
    architecture = str(_value(readers[0], "general.architecture") or "")
    heads = _count(readers[0], f"{architecture}.attention.head_count")
    return Base(
        architecture=architecture, layers=_count(readers[0], f"{architecture}.block_count"), heads=heads,
        kv_heads=_count(readers[0], f"{architecture}.attention.head_count_kv") or heads,
        shapes={tensor.name: _shape(tensor) for reader in readers for tensor in reader.tensors})


def write(pairs: Mapping[str, Pair], base: Base, out: Path, name: str) -> None:
    """pairs: by module of transformers. name: for people. Raises RefusedFile where the base has no such layers, or is
    of a family whose layout is not known here."""
    family = next((family for family in FAMILIES.values()
                   if gguf.MODEL_ARCH_NAMES[family.arch] == base.architecture), None)
    if family is None:
        raise RefusedFile(f"how {base.architecture or 'this model'} lays out its layers is not known here; {_ADVICE}")
    names = gguf.get_tensor_name_map(family.arch, base.layers)
    heads = SimpleNamespace(num_attention_heads=base.heads, num_key_value_heads=base.kv_heads)
    alphas = {pair.scale * pair.rank for pair in pairs.values()}
    # One alpha is for all layers: where they differ, each scale goes into its B.
    folded = len(alphas) > 1
    writer = gguf.GGUFWriter(out, base.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_name(name)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 0.0 if folded else alphas.pop())
    for module, pair in pairs.items():
        tensor = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        if tensor is None or tensor not in base.shapes:
            raise RefusedFile(f"the adapter was trained for another model: this base has no {module[:120]}")
        b = pair.scaled_b if folded else pair.b
        _check_shape(module, (pair.a.shape, b.shape), base.shapes[tensor])
        if family.permuted and (count := heads_of(f"{module}.weight", heads)) is not None:
            b = in_pairs(b, count)
        for half, data in zip(_HALVES, (pair.a, b), strict=True):
            writer.add_tensor(tensor + half, np.ascontiguousarray(data))
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def check(file: Path, base: Base) -> None:
    """A LoRA in GGUF, whoever wrote it. Raises RefusedFile where it is none or was made for another model,
    CorruptFile."""
    reader = _open(file)
    if (_value(reader, "general.type"), _value(reader, "adapter.type")) != ("adapter", "lora"):
        raise RefusedFile(f"{file.name} is no LoRA adapter; a model is pulled without --adapter-of")
    if (architecture := _value(reader, "general.architecture")) != base.architecture:
        raise RefusedFile(f"{file.name} was made for another model: its architecture is {architecture}, the base's is "
                          f"{base.architecture}")
    if _value(reader, "adapter.alora.invocation_tokens") is not None:
        raise RefusedFile(f"{file.name} is an activated LoRA, which works after its invocation only; that is not "
                          "served")
    halves: dict[str, dict[str, tuple[int, ...]]] = {}
    for tensor in reader.tensors:
        whole, dot, half = tensor.name.rpartition(".lora_")
        if not dot or half not in ("a", "b") or whole not in base.shapes:
            raise RefusedFile(f"{file.name} was made for another model: this base has no place for "
                              f"{tensor.name[:120]}")
        halves.setdefault(whole, {})[half] = _shape(tensor)
    for whole, shapes in halves.items():
        if shapes.keys() != {"a", "b"}:
            raise CorruptFile(f"{file.name} has only one half of {whole}; get it again")
        # llama.cpp takes the two of an embedding in another order and checks them itself.
        if not whole.startswith("token_embd"):
            _check_shape(whole, (shapes["a"], shapes["b"]), base.shapes[whole])


def _check_shape(title: str, halves: tuple[tuple[int, ...], tuple[int, ...]], weight: tuple[int, ...]) -> None:
    a, b = halves
    if len(weight) != 2 or (b[0], a[1]) != weight or a[0] != b[1]:
        raise RefusedFile(f"the adapter was trained for another model: for {title[:120]} it has {list(a)} and "
                          f"{list(b)}, and the base has {list(weight)} there")


def _open(file: Path) -> Any:
    try:
        return gguf.GGUFReader(file)
    except Exception as error:
        raise CorruptFile(f"{file.name} is damaged or no GGUF ({str(error)[:200]}); get it again") from error


def _value(reader: Any, key: str) -> Any:
    field = reader.fields.get(key)
    return None if field is None else field.contents()


def _count(reader: Any, key: str) -> int:
    value = _value(reader, key)
    return int(value) if isinstance(value, int | np.integer) else 0


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in reversed(tensor.shape))
