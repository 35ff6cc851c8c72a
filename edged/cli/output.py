"""What commands print: answers to standard output, everything about the way there to standard error.

Nothing that is piped has control codes, and NO_COLOR is honoured.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import msgspec


def say(text: str) -> None:
    """To the person at the terminal, not to a script."""
    print(text, file=sys.stderr, flush=True)


def about(text: str) -> None:
    """What a command works on."""
    say(styled(f"edged: {text}", "2", sys.stderr))


def answer(text: str) -> None:
    print(text, flush=True)


def answer_json(value: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


def styled(text: str, code: str, stream: Any = None) -> str:
    """code: of SGR, as in "1" for bold; left out where the stream is no terminal."""
    return f"\x1b[{code}m{text}\x1b[0m" if colours(stream if stream is not None else sys.stdout) else text


def colours(stream: Any) -> bool:
    return bool(stream.isatty()) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, never cut: a script may read them."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    return "\n".join([styled(line(heads), "1"), *map(line, rows)])


def size(count: int) -> str:
    """Bytes for people, in thousands as hubs and shops count: `98.4 MB`."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min" if whole < 86400 else f"{whole // 86400} days"
