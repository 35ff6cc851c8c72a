"""One GGUF → another in fewer bits, by llama.cpp's own llama_model_quantize."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from converters.llama_child import Quantize, Quantized
from converters.llama_process import run
from edged.errors import ConversionFailed, InvalidRequest
from edged.hardware.probe import probe

#: llama.cpp's numbers of file types (llama.h, enum llama_ftype), of those that need no importance matrix.
FILE_TYPES = {
    "F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q6_K": 18, "Q5_K_M": 17, "Q5_K_S": 16, "Q5_1": 9, "Q5_0": 8,
    "Q4_K_M": 15, "Q4_K_S": 14, "Q4_1": 3, "Q4_0": 2, "IQ4_NL": 25, "IQ4_XS": 30, "Q3_K_L": 13, "Q3_K_M": 12,
    "Q3_K_S": 11, "Q2_K": 10,
}

_TENSOR = re.compile(r"\[ *(\d+)/ *(\d+)\] ")
_FALLBACK = re.compile(r"^warning: .* ncols +(\d+) not divisible by +(\d+) .*type +(\S+)\).*falling back to +(\S+)")


def check_precision(precision: str) -> None:
    """Raises InvalidRequest for what llama.cpp has not, or has only in models that nothing here makes."""
    if precision not in FILE_TYPES:
        raise InvalidRequest(f"there is no precision {precision} of GGUF here; there are {', '.join(FILE_TYPES)}")


def quantize(
    file: Path, precision: str, out: Path, *, importance: Path | None, progress: Callable[[float, str | None], None],
) -> None:
    """importance: as `converters.gguf_imatrix` writes it. progress gets a note where tensors could not be stored in the
    type that the precision means. Raises ConversionFailed where llama.cpp fails or dies."""
    lower: Counter[tuple[str, str, str, str]] = Counter()

    def line(text: str) -> None:
        if (match := _FALLBACK.match(text)) is not None:
            columns, block, wanted, stored = match.groups()
            lower[wanted, stored, columns, block] += 1
        elif (match := _TENSOR.search(text)) is not None:
            progress(int(match[1]) / int(match[2]), None)

    task = Quantize(
        file=str(file), out=str(out), file_type=FILE_TYPES[precision], threads=probe().cpu.threads,
        importance=None if importance is None else str(importance),
    )
    answer = run(task, f"quantizing to {precision}", line)
    if not isinstance(answer, Quantized) or answer.code != 0 or not out.is_file():
        raise ConversionFailed(f"llama.cpp could not quantize to {precision}; see the job's log")
    for note in notes(lower):
        progress(1.0, note)


def notes(lower: Counter[tuple[str, str, str, str]]) -> list[str]:
    """lower: how many tensors should have had a type, got another, since their rows are no multiple of its block."""
    return [
        f"{count} {'tensor is' if count == 1 else 'tensors are'} {stored.upper()} instead of {wanted.upper()}: rows of "
        f"{columns} are no multiple of {block}" for (wanted, stored, columns, block), count in lower.items()
    ]
