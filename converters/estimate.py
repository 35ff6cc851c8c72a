"""What a conversion will take of disk, memory and time, told before it starts, and refused where it cannot fit. Pure.

Memory and disk are upper bounds for what was measured; the time is a guess that a slow disk or a busy machine makes
wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from converters.recipe import Recipe
from edged.errors import InsufficientMemory, InsufficientStorage
from edged.hardware.fit import bits_per_weight
from edged.store.space import MARGIN_BYTES, in_words

FP32_BYTES = 4
#: Interpreter and libraries, before any weights.
_LIBRARIES_BYTES = 500_000_000
#: Most resident memory of the stages, in sizes of the model at 32 bits, over the libraries.
_MEMORY = {"onnx": 3.0, "gguf": 1.5}
_DEQUANTIZE_MEMORY = 1.5
_MERGE_MEMORY = 2.0
#: Seconds for a million weights on two cores of an ordinary processor, all stages but the gate's fixed time.
_SECONDS = {"onnx": 0.35, "gguf": 0.25}
_GATE_S = 60.0
_DEQUANTIZE_SECONDS = 0.2
_MERGE_SECONDS = 0.1
_REFERENCE_CORES = 2


class Size(Struct, frozen=True, kw_only=True):
    """Of the model that is converted. stored_bytes: its weights as they are. brought_bytes: what is written to bring it
    here, 0 for a folder of this machine. guessed: parameters are the least that it can have."""

    parameters: int
    stored_bytes: int
    brought_bytes: int = 0
    dequantized: bool = False
    adapters: int = 0
    guessed: bool = False

    @property
    def fp32_bytes(self) -> int:
        return self.parameters * FP32_BYTES


class Needs(Struct, frozen=True, kw_only=True):
    """disk_bytes: most at one time, beside what is there. memory_bytes: of the stage that needs most."""

    disk_bytes: int
    memory_bytes: int
    seconds: float


def estimate(size: Size, recipe: Recipe, *, gated: bool, cores: int) -> Needs:
    """gated: reference and gate come too."""
    result_bytes = int(size.parameters * (bits_per_weight(recipe.precision) or 32.0) / 8 * 1.15)
    source_bytes = size.fp32_bytes if size.dequantized else size.brought_bytes
    merged_bytes = size.fp32_bytes if size.adapters else 0
    between_bytes = size.stored_bytes if recipe.format == "gguf" else result_bytes
    reference_bytes = (size.fp32_bytes if recipe.format == "onnx" else size.stored_bytes) if gated else 0
    base_bytes = merged_bytes or source_bytes
    disk_bytes = max(
        source_bytes + merged_bytes,
        base_bytes + between_bytes + result_bytes,
        base_bytes + result_bytes + int(reference_bytes * 1.1),
        base_bytes + reference_bytes + 2 * result_bytes,
    )
    factor = max(
        _MEMORY[recipe.format], _DEQUANTIZE_MEMORY if size.dequantized else 0, _MERGE_MEMORY if size.adapters else 0)
    millions = size.parameters / 1e6
    seconds = millions * _SECONDS[recipe.format] + (_GATE_S + millions * _SECONDS[recipe.format] if gated else 0)
    seconds += millions * (_DEQUANTIZE_SECONDS * size.dequantized + _MERGE_SECONDS * size.adapters)
    return Needs(
        disk_bytes=disk_bytes, memory_bytes=int(_LIBRARIES_BYTES + factor * size.fp32_bytes),
        seconds=seconds * _REFERENCE_CORES / max(1, cores))


def require(needs: Needs, *, free_disk_bytes: int, free_memory_bytes: int) -> None:
    """Raises InsufficientStorage or InsufficientMemory, which name both figures."""
    if needs.disk_bytes + MARGIN_BYTES > free_disk_bytes:
        raise InsufficientStorage(
            f"the conversion needs up to {in_words(needs.disk_bytes)} of disk at a time and {in_words(MARGIN_BYTES)} "
            f"to spare, and {in_words(free_disk_bytes)} are free. `edged gc` frees what no model uses, `edged rm NAME` "
            "a model")
    if needs.memory_bytes > free_memory_bytes:
        raise InsufficientMemory(
            f"the conversion needs up to {in_words(needs.memory_bytes)} of memory, and {in_words(free_memory_bytes)} "
            "are free. `edged unload` models, close other programs, or convert it on another machine and pull the "
            "result")


def in_sentence(size: Size, needs: Needs) -> str:
    millions = size.parameters / 1e6
    count = f"{'at least ' if size.guessed else ''}{millions:,.{0 if millions >= 10 else 1}f} million weights"
    return (f"{count} ({in_words(size.fp32_bytes)} in 32 bits): up to {in_words(needs.disk_bytes)} of disk and "
            f"{in_words(needs.memory_bytes)} of memory, about {_time(needs.seconds)}")


def least_parameters(sizes: Mapping[str, int]) -> int:
    """Of a repository, before any header is here: as if all were kept in 32 bits, so that nothing is refused that may
    fit. Most are kept in 16; what they really are is asked once they are here."""
    return sum(size for name, size in sizes.items() if name.endswith(".safetensors")) // FP32_BYTES


def _time(seconds: float) -> str:
    if seconds < 90:
        return "a minute"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
