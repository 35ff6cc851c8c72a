"""What was measured on this machine, in `$EDGED_HOME/measured.json`: speeds, self-tests and tuning of versions, by
fingerprint of the machine, digest of the version and key of its place. Manifests do not hold them: a store may be
carried to another box.

`Measured` is the only writer of the file; several processes may have one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from edged.types import Tuning

FILE = "measured.json"
#: What `Speed.seconds` stands for: a request of this many tokens, alone half of the time and among others the rest.
PROMPT_TOKENS, ANSWER_TOKENS = 512, 128
#: Machines that are remembered: a stick with a store on it goes from box to box.
KEPT_MACHINES = 8


class Speed(Struct, frozen=True, kw_only=True):
    """Tokens a second. prefill: of a prompt of 512 tokens; decode: of one stream; decode_many: of `streams` streams
    together. device: as the engine attests it. taken: seconds since 1970."""

    prefill: float
    decode: float
    decode_many: float
    streams: int
    threads: int
    device: str
    engine_version: str
    taken: float

    @property
    def seconds(self) -> float:
        """Of one request of PROMPT_TOKENS and ANSWER_TOKENS, half of the answer alone and half among `streams`, whose
        rate it shares: the one figure that candidates are ranked by. Less is better."""
        half = ANSWER_TOKENS / 2
        return PROMPT_TOKENS / self.prefill + half / self.decode + half / self.decode_many

    def words(self) -> str:
        return f"{_rate(self.decode)} tokens/s at one stream, {_rate(self.decode_many)} at {_count(self.streams)}"


class Verdict(Struct, frozen=True, kw_only=True):
    """Of a self-test: whether the device computes what the processor does. reason: in words. Figures: see
    `edged.hardware.selftest`; 0 where it could not even run. taken: seconds since 1970."""

    passed: bool
    reason: str
    positions: int = 0
    top1_agreement: float = 0.0
    mean_difference: float = 0.0
    max_difference: float = 0.0
    taken: float = 0.0


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True):
    speed: Speed | None = None
    verdict: Verdict | None = None
    tuning: Tuning | None = None


NOTHING = Record()
#: Record of a version, by its digest, at a place of this machine, by its key (`edged.hardware.place.Place.key`).
Known = Callable[[str, str], Record]


class _File(Struct, kw_only=True):
    """machines: by fingerprint, then digest, then key of a place; the last one written last."""

    machines: dict[str, dict[str, dict[str, Record]]] = {}


class Measured:
    def __init__(self, home: Path, fingerprint: str) -> None:
        """home: of the store. fingerprint: of this machine as it is now."""
        self._file = home / FILE
        self._fingerprint = fingerprint
        #: What was recorded here, which a home that cannot be written does not keep.
        self._own: dict[tuple[str, str], Record] = {}

    def get(self, digest: str, place: str) -> Record:
        return self.known()(digest, place)

    def of(self, digest: str) -> dict[str, Record]:
        """All that is recorded of a version on this machine, by key of the place."""
        own = {place: record for (own_digest, place), record in self._own.items() if own_digest == digest}
        return own | self._read().machines.get(self._fingerprint, {}).get(digest, {})

    def known(self) -> Known:
        """As of now: reads the file once."""
        here = self._read().machines.get(self._fingerprint, {})
        return lambda digest, place: here.get(digest, {}).get(place, self._own.get((digest, place), NOTHING))

    def record(
        self, digest: str, place: str, *, speed: Speed | None = None, verdict: Verdict | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        """Over what is known. A home that cannot be written costs a new measurement by the next process, so it is no
        error."""
        old = self.get(digest, place)
        self._write(digest, place, replace(
            old, speed=speed or old.speed, verdict=verdict or old.verdict, tuning=tuning or old.tuning))

    def forget_tuning(self, digest: str, place: str) -> Tuning | None:
        """Returns what was forgotten."""
        old = self.get(digest, place)
        if old.tuning is not None:
            self._write(digest, place, replace(old, tuning=None))
        return old.tuning

    def _write(self, digest: str, place: str, new_record: Record) -> None:
        self._own[digest, place] = new_record
        with contextlib.suppress(OSError), self._locked():
            file = self._read()
            here = file.machines.pop(self._fingerprint, {})
            here.setdefault(digest, {})[place] = new_record
            file.machines[self._fingerprint] = here
            for fingerprint in list(file.machines)[:-KEPT_MACHINES]:
                del file.machines[fingerprint]
            new = self._file.with_name(f".{FILE}.{os.getpid()}")
            new.write_bytes(msgspec.json.encode(file))
            new.replace(self._file)

    def _read(self) -> _File:
        """Empty where there is none, and where it is damaged: all of it can be measured again."""
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=_File)
        except (OSError, msgspec.MsgspecError):
            return _File()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._file.with_name(f".{FILE}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _rate(tokens_per_s: float) -> str:
    return f"{tokens_per_s:.0f}" if tokens_per_s >= 10 else f"{tokens_per_s:.1f}"


def _count(number: int) -> str:
    words = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight")
    return words[number] if number < len(words) else str(number)
