"""What a child process says on stderr: forwarded to the daemon's log, the last lines kept, their gist for an error."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec

KEPT_LINES = 50
#: A longer line is cut: native libraries print whole tensors.
LINE_BYTES = 4096
GIST_CHARACTERS = 200

_TELLING = re.compile(r"Fatal Python error|ASSERT|terminate called|what\(\)|\b\w*(?:Error|Exception)\b|[Ee]rror:")
_PATH = re.compile(r"(?:[A-Za-z]:)?(?:/[^\s/:'\"()]+)+/([^\s/:'\"()]+)")
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{4,}\b")


class LastLines:
    """bound: the logger to forward to, which says whose lines they are."""

    def __init__(self, bound: Any) -> None:
        self._log = bound
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)

    async def follow(self, stream: asyncio.StreamReader | None) -> None:
        """To the end of the stream; memory is bounded whatever it holds."""
        if stream is None:
            return
        rest = b""
        while piece := await stream.read(1 << 16):
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                self._take(line)
            rest = rest[:LINE_BYTES]
        self._take(rest)

    def _take(self, raw: bytes) -> None:
        line = raw[:LINE_BYTES].decode(errors="replace").rstrip()
        if not line:
            return
        self.lines.append(line)
        fields = _fields(line)
        if fields is None:
            self._log.info("child.stderr", line=line)
            return
        level = str(fields.pop("level", "info"))
        event = str(fields.pop("event", "child.log"))
        said = {f"child_{key}" if key in _TAKEN else key: value for key, value in fields.items()}
        self._log.log(_LEVELS.get(level, 20), event, **said)


#: Keys of the daemon's own entries.
_TAKEN = ("timestamp", "model", "job", "logger", "level", "event")
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


def _fields(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.MsgspecError:
        return None


def gist(lines: Sequence[str]) -> str:
    """The last line that tells what went wrong, else the last one; no paths, no addresses. "" without any."""
    said = [_plain(line) for line in lines]
    telling = [line for line in said if _TELLING.search(line)]
    chosen = (telling or said or [""])[-1]
    return _ADDRESS.sub("0x…", _PATH.sub(r"\1", chosen)).strip()[:GIST_CHARACTERS]


def _plain(line: str) -> str:
    fields = _fields(line)
    if fields is None:
        return line
    return " ".join(str(fields[key]) for key in ("event", "error", "message") if key in fields)
