"""Texts to calibrate with and to measure on: the one that ships, or the user's own.

The one that ships is `text/calibration.jsonl` (its README says what is in it). The user's own is a .txt, or a .jsonl
whose lines have `text` or `messages` (OpenAI's chat shape); other keys are left alone, so that a data set can be used
as it is. A recipe that calibrates and the gate never see the same passages: each takes every second one, since a model
fitted to a text would look better on it than it is.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from edged.errors import ConfigError

Use = Literal["calibrate", "gate"]

SHIPPED = Path(__file__).parent / "text" / "calibration.jsonl"
#: A few hundred kilobytes are more than either use reads.
MAX_FILE_BYTES = 64 << 20
#: A .txt is cut into passages of about this many characters, at ends of lines or words.
PASSAGE_CHARACTERS = 2000
#: Fewer passages than this are not shared out: both uses get them all.
FEWEST_TO_SHARE = 8


class Passage(Struct, frozen=True):
    """Text, or messages for the model's chat template. line: where it begins in its file."""

    line: int
    text: str | None = None
    messages: list[dict[str, Any]] | None = None

    def plain(self) -> str:
        """For tools that know no chat template: messages as paragraphs that begin with the role."""
        if self.messages is None:
            return self.text or ""
        return paragraphs(self.messages)


class Text(Struct, frozen=True):
    """name: of the file, with 12 digits of its sha256."""

    path: Path
    name: str
    passages: tuple[Passage, ...]

    def plain(self) -> str:
        return "\n\n".join(passage.plain() for passage in self.passages)


def paragraphs(messages: list[dict[str, Any]]) -> str:
    return "\n\n".join(f"{message['role']}: {message.get('content') or ''}" for message in messages)


class _Line(Struct, frozen=True):
    text: str | None = None
    messages: list[dict[str, Any]] | None = None


def read(path: Path | None, use: Use) -> Text:
    """The passages for one use; path None is the text that ships. Raises ConfigError with file and line."""
    file = path or SHIPPED
    raw = read_bytes(file)
    passages = _lines(file, raw) if file.suffix in (".jsonl", ".json") else _cut(decoded(file, raw))
    if not passages:
        raise ConfigError("holds no text; give one of at least a few thousand characters", file=str(file))
    if len(passages) >= FEWEST_TO_SHARE:
        passages = passages[0 if use == "gate" else 1::2]
    return Text(file, f"{file.stem} {hashlib.sha256(raw).hexdigest()[:12]}", tuple(passages))


def read_bytes(file: Path) -> bytes:
    """Raises ConfigError where there is no such file, or it is none or too large."""
    try:
        if not file.is_file():
            raise ConfigError("there is no such file; make it, or name another one", file=str(file))
        with file.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror}); mend its permissions", file=str(file)) from None
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(
            f"is over {MAX_FILE_BYTES >> 20} MiB; a part of it with a few hundred kilobytes is enough", file=str(file))
    return raw


def decoded(file: Path, raw: bytes, line: int = 1) -> str:
    """line: the one that `raw` begins with."""
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ConfigError(
            "is not UTF-8 here; save it as UTF-8", file=str(file), line=line + raw[:error.start].count(b"\n")
        ) from None


def _lines(file: Path, raw: bytes) -> list[Passage]:
    found = []
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue

        def mistake(message: str, number: int = number) -> ConfigError:
            return ConfigError(message, file=str(file), line=number)

        try:
            said = msgspec.json.decode(decoded(file, line, number), type=_Line)
        except msgspec.ValidationError as error:
            raise mistake(str(error)) from None
        except msgspec.DecodeError as error:
            raise mistake(f"is not JSON: {error}; each line is one object") from None
        if (said.text is None) == (said.messages is None):
            raise mistake("has to hold either `text` or `messages`")
        if said.messages is not None:
            check_messages(said.messages, mistake)
        elif not (said.text or "").strip():
            continue
        found.append(Passage(number, said.text, said.messages))
    return found


def check_messages(messages: list[dict[str, Any]], mistake: Any) -> None:
    """mistake: makes the error of a message."""
    if not messages:
        raise mistake("`messages` is empty")
    for index, message in enumerate(messages):
        if not isinstance(message.get("role"), str):
            raise mistake(f"messages[{index}] has no `role`, such as user or assistant")
        if not isinstance(message.get("content"), str | None):
            raise mistake(f"the `content` of messages[{index}] is no text")


def _cut(text: str) -> list[Passage]:
    """Passages at the last end of a line, else of a word, before PASSAGE_CHARACTERS."""
    found = []
    first, line = 0, 1
    while first < len(text):
        end = first + PASSAGE_CHARACTERS
        if end < len(text):
            half = first + PASSAGE_CHARACTERS // 2
            end = next((at + 1 for border in ("\n", " ") if (at := text.rfind(border, half, end)) >= 0), end)
        part = text[first:end]
        if re.search(r"\S", part):
            found.append(Passage(line, part))
        line += part.count("\n")
        first = end
    return found
