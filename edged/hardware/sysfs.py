"""Reads single values of /proc, /sys and device trees. Nothing raises: what cannot be read is not there."""

from __future__ import annotations

import re
from pathlib import Path


def text(path: Path) -> str:
    """Empty where there is no such file or it cannot be read. Firmware ends its texts with NUL."""
    try:
        return path.read_text("utf-8", "replace").strip("\0\n ")
    except OSError:
        return ""


def whole(path: Path) -> int | None:
    written = text(path)
    return int(written) if re.fullmatch(r"\d+", written) else None


def pairs(path: Path) -> dict[str, str]:
    """Of a `uevent` file: lines of NAME=value."""
    return dict(line.split("=", 1) for line in text(path).splitlines() if "=" in line)
