"""What the reader hands to the loop of a worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from edged.ipc.messages import Cancel, Forget, Pause, Resume

Prepared = TypeVar("Prepared")


@dataclass(frozen=True, slots=True)
class Closed:
    """The daemon is gone or has closed the connection."""


@dataclass(frozen=True, slots=True)
class Queued(Generic[Prepared]):
    """A request that can run. arrived_s: monotonic."""

    prepared: Prepared
    arrived_s: float


@dataclass(frozen=True, slots=True)
class Warm(Generic[Prepared]):
    """The beginning of many prompts, to be ready before anybody asks."""

    prepared: Prepared


@dataclass(frozen=True, slots=True)
class Noted:
    """What the operator should know of how the model is set up."""

    text: str


Order = Queued[Prepared] | Cancel | Pause | Resume | Forget | Warm[Prepared] | Noted | Closed
