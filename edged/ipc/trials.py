"""What a trial is asked and what it answers: `python -m edged.worker.trial`, JSON on standard input and output."""

from __future__ import annotations

from msgspec import Struct

from edged.hardware.measured import Speed
from edged.hardware.selftest import Position
from edged.hardware.tuning import Part
from edged.types import LoadSpec


class Trial(Struct, frozen=True, kw_only=True):
    """Load `spec`, then measure for about `seconds` a figure (0: no figures), and tell logits of a fixed text (logits
    true). turns: then stay, and measure one `Turn` after another, each asked for and answered (`Turned`) in a line."""

    spec: LoadSpec
    seconds: float = 1.0
    logits: bool = False
    turns: bool = False


class Turn(Struct, frozen=True, kw_only=True):
    """seconds: for each part. threads: of decoding and of batches, to be set before; None leaves them."""

    parts: tuple[Part, ...]
    seconds: float
    threads: tuple[int, int] | None = None


class TrialFailed(Struct, frozen=True, kw_only=True):
    """Fields of an EdgedError."""

    status: int
    type: str
    message: str
    code: str | None = None
    retry: bool = False


class Turned(Struct, frozen=True, kw_only=True):
    """Tokens a second of each part, or what went wrong."""

    rates: dict[Part, float] = {}
    error: TrialFailed | None = None


class TrialResult(Struct, frozen=True, kw_only=True):
    """Either error, or device (as the engine attests it), engine_version and what was asked for. text_logprob: of the
    tokens of the fixed text that `positions` are of, mean, None where logits are no numbers; vocabulary: its size.
    sets_threads: a turn may name threads. resident_bytes: of the process."""

    device: str = ""
    engine_version: str = ""
    speed: Speed | None = None
    positions: list[Position] = []
    text_logprob: float | None = None
    vocabulary: int = 0
    sets_threads: bool = False
    resident_bytes: int = 0
    error: TrialFailed | None = None
