"""Writes a Hugging Face folder as one GGUF, weights as they are, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from converters.gguf_families import (
    Family,
    context_of,
    extra_tensors,
    family_of,
    heads_of,
    in_pairs,
    write_settings,
)
from converters.gguf_split_rule import find_rule
from converters.gguf_vocab import read_vocabulary
from converters.tensors import TensorInfo, read_headers
from edged.errors import CorruptFile, InvalidRequest

Progress = Callable[[float, str | None], None]

#: Types by safetensors' names. Others (8-bit floats, integers) are some quantization of their own.
_TYPES = {
    "F32": gguf.GGMLQuantizationType.F32, "F16": gguf.GGMLQuantizationType.F16, "BF16": gguf.GGMLQuantizationType.BF16,
}
_FILE_TYPES = {
    "F32": gguf.LlamaFileType.ALL_F32, "F16": gguf.LlamaFileType.MOSTLY_F16, "BF16": gguf.LlamaFileType.MOSTLY_BF16,
}
_EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class _Planned:
    """One tensor of the result. name: in the GGUF; source: in the folder."""

    name: str
    source: str
    info: TensorInfo

    @property
    def type(self) -> gguf.GGMLQuantizationType:
        """Norms and biases are 32-bit in every GGUF."""
        return _TYPES[self.info.dtype] if len(self.info.shape) > 1 else gguf.GGMLQuantizationType.F32

    @property
    def size_bytes(self) -> int:
        return self.info.count * (4 if self.type == gguf.GGMLQuantizationType.F32 else 2)


def write(folder: Path, out: Path, *, work: Path, progress: Progress) -> None:
    """See `converters.gguf.unquantized`."""
    config = read_config(folder)
    family = family_of(config)
    headers = read_headers(folder)
    plan = _plan(config, family, {name: info for header in headers.values() for name, info in header.items()})
    vocabulary = read_vocabulary(folder, _rows(plan, config))
    context, note = context_of(config, family)
    progress(0.0, note)

    def begin(file: Path, rule: str) -> gguf.GGUFWriter:
        writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[family.arch])
        writer.add_file_type(_FILE_TYPES[_widest(plan)])
        write_settings(writer, config, family, context)
        vocabulary.write(writer, rule)
        return writer

    rule = find_rule(folder, vocabulary, begin, work)
    writer = begin(out, rule)
    extra = list(extra_tensors(config))
    for name, data in extra:
        writer.add_tensor_info(name, data.shape, data.dtype, data.nbytes)
    for planned in plan:
        writer.add_tensor_info(
            planned.name, planned.info.shape, np.dtype(np.float32), planned.size_bytes, raw_dtype=planned.type)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for _, data in extra:
            writer.write_tensor_data(data)
        total = done = sum(planned.size_bytes for planned in plan)
        for planned, data in _data(plan, headers, config, family):
            writer.write_tensor_data(data)
            done -= planned.size_bytes
            progress(1 - done / total, None)
    finally:
        writer.close()


def read_config(folder: Path) -> Any:
    """config.json as transformers understands it, old and new spellings alike; no code of the model is run. Raises
    CorruptFile."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = str(error).replace(f"{folder}/", "")
        raise CorruptFile(f"config.json is missing, damaged or of an unknown model ({said[:300]})") from error


def tensor_names(config: Any, family: Family) -> gguf.TensorNameMap:
    return gguf.get_tensor_name_map(family.arch, config.num_hidden_layers)


def _plan(config: Any, family: Family, tensors: dict[str, TensorInfo]) -> list[_Planned]:
    names = tensor_names(config, family)
    plan = []
    for source, info in tensors.items():
        if source.endswith(".rotary_emb.inv_freq") or (source == _HEAD and config.tie_word_embeddings):
            continue
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise InvalidRequest(f"llama.cpp has no place for the tensor {source}; convert this model to ONNX instead")
        if info.dtype not in _TYPES:
            raise InvalidRequest(
                f"tensor {source} is {info.dtype}: a quantized model; convert from its weights in 16 or 32 bits")
        plan.append(_Planned(name, source, info))
    return plan


def _rows(plan: list[_Planned], config: Any) -> int:
    rows = next((planned.info.shape[0] for planned in plan if planned.source == _EMBEDDING), None)
    if rows is None or rows != config.vocab_size:
        raise CorruptFile(
            f"config.json speaks of {config.vocab_size} tokens, the weights hold embeddings of {rows}; save the model "
            "again with save_pretrained")
    return rows


def _widest(plan: list[_Planned]) -> str:
    kinds = {planned.info.dtype for planned in plan if len(planned.info.shape) > 1}
    return next(kind for kind in ("F32", "BF16", "F16") if kind in kinds)


def _data(
    plan: list[_Planned], headers: dict[Path, dict[str, TensorInfo]], config: Any, family: Family,
) -> Iterator[tuple[_Planned, NDArray[Any]]]:
    """Each tensor of the plan, in its order."""
    from safetensors import safe_open

    with ExitStack() as stack:
        files = {name: opened for file, header in headers.items()
                 for opened in (stack.enter_context(safe_open(file, framework="pt")),) for name in header}
        for planned in plan:
            yield planned, _arranged(planned, files[planned.source].get_tensor(planned.source), config, family)


def _arranged(planned: _Planned, tensor: Any, config: Any, family: Family) -> NDArray[Any]:
    """tensor: of torch. BF16 comes as the 16-bit integers that it is stored in: numpy has no such type."""
    import torch

    heads = heads_of(planned.source, config) if family.permuted else None
    if heads is not None:
        tensor = in_pairs(tensor, heads)
    if len(planned.info.shape) == 1:
        tensor = tensor.float()
        if planned.name.endswith("norm.weight"):
            tensor = tensor + family.norm_offset
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.int16)
    array: NDArray[Any] = tensor.contiguous().numpy()
    return array
