"""A Hugging Face folder → one GGUF file, in 16 or 32 bits or quantized by llama.cpp.

Two steps, each a file: `unquantized` writes the weights as they are (`converters.gguf_file`), and llama.cpp quantizes
that file in a child process (`converters.gguf_quantize`), by an importance matrix where the recipe says so.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from edged.errors import ConfigError

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

    calibration: text for the importance matrix, if the recipe wants one. out, work, progress and errors as of
    `unquantized`; Internal where llama.cpp fails. What llama.cpp could not store in the type asked for is a note.
    """
    from converters.gguf_file import write
    from converters.gguf_imatrix import measure
    from converters.gguf_quantize import check_precision, quantize

    check_precision(recipe.precision)
    if recipe.imatrix and calibration is None:
        raise ConfigError(f"recipe {recipe.name} weighs weights by activations and needs a text: give --calibration")
    plain, unfinished = _fresh(work / "plain") / FILE, _fresh(work / "quantized")
    first = 0.5 if recipe.imatrix else 0.2
    write(hf_folder, plain, work=work, progress=lambda done, note: progress(done * 0.2, note))
    importance = None
    if recipe.imatrix and calibration is not None:
        importance = work / "imatrix.safetensors"
        measure(hf_folder, calibration, importance, progress=lambda done, note: progress(0.2 + done * 0.3, note))
    quantize(plain, recipe.precision, unfinished / FILE, importance=importance,
             progress=lambda done, note: progress(first + done * (1 - first), note))
    unfinished.replace(out)
    shutil.rmtree(plain.parent)


def _fresh(folder: Path) -> Path:
    """An empty folder, whatever an earlier attempt left there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
