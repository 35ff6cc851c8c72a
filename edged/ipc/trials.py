"""What a trial is asked and what it answers: `python -m edged.worker.trial`, JSON on standard input and output."""

from __future__ import annotations

from msgspec import Struct

from edged.hardware.measured import Speed
from edged.hardware.selftest import Position
from edged.types import LoadSpec


class Trial(Struct, frozen=True, kw_only=True):
    """Load `spec`, then measure for about `seconds` a figure (0: no figures), and tell logits of a fixed text (logits
    true)."""

    spec: LoadSpec
    seconds: float = 1.0
    logits: bool = False


class TrialFailed(Struct, frozen=True, kw_only=True):
    """Fields of an EdgedError."""

    status: int
    type: str
    message: str
    code: str | None = None
    retry: bool = False


class TrialResult(Struct, frozen=True, kw_only=True):
    """Either error, or device (as the engine attests it), engine_version and what was asked for. text_logprob: of the
    tokens of the fixed text that `positions` are of, mean, None where logits are no numbers; vocabulary: its size."""

    device: str = ""
    engine_version: str = ""
    speed: Speed | None = None
    positions: list[Position] = []
    text_logprob: float | None = None
    vocabulary: int = 0
    error: TrialFailed | None = None
