"""The model that the gate compares with: the same weights unquantized, in the same format and so on the same engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from converters.recipe import Format, load_recipe

#: The engine by its usual name, for people.
_ENGINES = {"onnx": "onnxruntime", "gguf": "llama.cpp"}


def build(
    hf_folder: Path, format: Format, out: Path, work: Path, progress: Callable[[float, str | None], None],
) -> str:
    """Makes the folder `out` whole, or not at all. Returns what it is in words, for `Quality.reference`. Raises what
    `converters.olive.convert` and `converters.gguf.unquantized` raise."""
    if format == "onnx":
        from converters import olive

        olive.convert(hf_folder, load_recipe("cpu-fp32"), out, calibration=None, work=work / "olive", progress=progress)
        return f"fp32 on {_ENGINES[format]}"
    from converters import gguf

    gguf.unquantized(hf_folder, out, work=work, progress=progress)
    return f"{stored_precision(hf_folder)} on {_ENGINES[format]}"


def itself(format: Format) -> str:
    """Where the result is what would be the reference."""
    return f"fp32 on {_ENGINES[format]}, which is this one"


def stored_precision(hf_folder: Path) -> str:
    """Of most of the weights: `fp32`, `bf16`, …"""
    from converters.tensors import read_headers

    counts: dict[str, int] = {}
    for header in read_headers(hf_folder).values():
        for tensor in header.values():
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.count
    name = max(counts, key=lambda dtype: counts[dtype])
    return {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}.get(name, name)
