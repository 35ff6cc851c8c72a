"""A Hugging Face folder → one GGUF file, in 16 or 32 bits or quantized by llama.cpp.

Two steps, each a file: `unquantized` writes the weights as they are (`converters.gguf_file`), and llama.cpp quantizes
that file in a child process (`converters.gguf_quantize`), by an importance matrix where the recipe says so.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

#: The one file in the folder that a conversion makes.
FILE = "model.gguf"

Progress = Callable[[float, str | None], None]


class GgufRecipe(Protocol):
    """What this module reads of a `converters.recipe.Recipe`."""

    @property
    def name(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def imatrix(self) -> bool: ...


def unquantized(hf_folder: Path, out: Path, *, work: Path, progress: Progress) -> Path:
    """Weights in the precision that they have in the folder (matrices of BF16, F16 or F32; vectors in F32), so nothing
    is lost.

    out: a folder that is not there before; it is made whole or not at all. work: a folder for what is unfinished, on
    the same file system. progress: gets 0 … 1, and a note where a person should know something. Returns the file.
    Raises RefusedFile where llama.cpp cannot run this model, CorruptFile where a file of the folder is damaged.
    """
    from converters.gguf_file import write

    unfinished = _fresh(work / "unquantized")
    write(hf_folder, unfinished / FILE, work=work, progress=progress)
    unfinished.replace(out)
    return out / FILE


def convert(
    hf_folder: Path, recipe: GgufRecipe, out: Path, *, calibration: Path | None, work: Path, progress: Progress,
) -> None:
    """`out`/model.gguf in the recipe's precision, a name of llama.cpp's (`Q4_K_M`, `Q8_0`, `F16`, …).

    calibration: text for the importance matrix, where the recipe wants one; None takes the text that ships. out, work,
    progress and errors as of `unquantized`; ConversionFailed where llama.cpp fails, ConfigError for the text. What
    llama.cpp could not store in the type asked for is a note.
    """
    from converters.gguf_file import write
    from converters.gguf_quantize import check_precision, quantize

    check_precision(recipe.precision)
    plain, unfinished = _fresh(work / "plain") / FILE, _fresh(work / "quantized")
    parts = _Parts(progress, {"write": 0.2, "measure": 0.4 if recipe.imatrix else 0.0})
    write(hf_folder, plain, work=work, progress=parts.next("write"))
    importance = None
    if recipe.imatrix:
        from converters import calibration as texts
        from converters.gguf_imatrix import measure

        importance = work / "importance.safetensors"
        measure(hf_folder, texts.read(calibration, "calibrate"), importance, progress=parts.next("measure"))
    quantize(plain, recipe.precision, unfinished / FILE, importance=importance, progress=parts.rest())
    unfinished.replace(out)
    shutil.rmtree(plain.parent)


class _Parts:
    """Progress of parts as progress of the whole. shares: of each but the last."""

    def __init__(self, progress: Progress, shares: dict[str, float]) -> None:
        self._progress = progress
        self._shares = shares
        self._done = 0.0

    def next(self, name: str) -> Progress:
        return self._part(self._shares[name])

    def rest(self) -> Progress:
        return self._part(1.0 - self._done)

    def _part(self, share: float) -> Progress:
        first = self._done
        self._done += share
        return lambda done, note: self._progress(first + done * share, note)


def _fresh(folder: Path) -> Path:
    """An empty folder, whatever an earlier attempt left there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
