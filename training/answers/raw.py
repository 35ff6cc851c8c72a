"""Every answer as it came, one a line, appended the moment it is there: what was paid for is never asked for again."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import msgspec
from msgspec import Struct

from edged.errors import CorruptFile
from edged.store.files import OutFile
from training.reply import Reply


class Raw(Struct, frozen=True, kw_only=True):
    """ask: a digest of all that the answer depends on: prompt, teacher, sampling, number of the sample. prompt: the id
    of its example. teacher: its title."""

    ask: str
    prompt: str
    teacher: str
    sample: int
    reply: Reply


class RawFile:
    """Owned by one process. known: what the file holds, by ask, without log probabilities, which only the file has."""

    def __init__(self, path: Path) -> None:
        """Drops a last line that a kill tore. Raises CorruptFile with the line that is none."""
        self._file = OutFile(path, keep=True)
        self.known: dict[str, Raw] = {}
        self._read(path)

    def __enter__(self) -> RawFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._file.sync()
        self._file.close()

    def add(self, raw: Raw) -> None:
        """A whole line in one write; a power cut may take the last ones, which are then asked for again."""
        self._file.write(msgspec.json.encode(raw) + b"\n")
        self.known[raw.ask] = _without_logprobs(raw)

    def _read(self, path: Path) -> None:
        decoder = msgspec.json.Decoder(Raw)
        whole_bytes = 0
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    raw = decoder.decode(line)
                except msgspec.MsgspecError as error:
                    raise CorruptFile(f"{path}, line {number} is no answer ({error}); take that line out, or the file "
                                      "away to ask for all answers again") from error
                self.known[raw.ask] = _without_logprobs(raw)
                whole_bytes += len(line)
        if whole_bytes < self._file.size:
            self._file.truncate(whole_bytes)


def _without_logprobs(raw: Raw) -> Raw:
    return msgspec.structs.replace(raw, reply=msgspec.structs.replace(raw.reply, logprobs=None))
