"""Ollama's framing: one JSON object a line, errors as `{"error": "…"}`.

Both official clients parse every line, also an empty one, so a heartbeat is a space: it leads the next line, where JSON
allows it. The client for JavaScript reads until `done` or the status `success`, the one for Python to the end. The
latter also takes other characters for ends of lines, which JSON need not escape; here they are escaped.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from edged.errors import EdgedError, ModelNotFound

_encoder = msgspec.json.Encoder()
#: NEXT LINE, LINE SEPARATOR, PARAGRAPH SEPARATOR; of what `str.splitlines` splits at, all else is escaped anyway.
_LINE_ENDS = [(end.encode(), b"\\u%04x" % ord(end)) for end in "\x85\u2028\u2029"]
#: What workers call by OpenAI's name, by Ollama's.
_THEIRS = {"reasoning_effort": "think"}


class ErrorLine(Struct, frozen=True):
    error: str


class Ollama:
    content_type = b"application/x-ndjson"
    heartbeat = b" "
    done = b""
    headers: Sequence[tuple[bytes, bytes]] = ()

    def frame(self, chunk: Struct) -> bytes:
        line = _encoder.encode(chunk)
        for end, escaped in _LINE_ENDS:
            line = line.replace(end, escaped)
        return line + b"\n"

    def error(self, error: EdgedError) -> Struct:
        """Text alone, so it names the field that is at fault, too. Programs written for Ollama look for "not found" in
        it before they pull a model."""
        if isinstance(error, ModelNotFound):
            return ErrorLine(f"model not found: {error.message}")
        message, field = error.message, error.param
        if field in _THEIRS:
            message, field = message.replace(field, _THEIRS[field]), _THEIRS[field]
        named = field is None or field in message
        return ErrorLine(message if named else f"`{field}`: {message}")


OLLAMA = Ollama()
