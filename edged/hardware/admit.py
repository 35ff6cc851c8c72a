"""What is to be done before a form may serve on this machine: pure, asked again after each thing that was done.

One place is left: it serves, unless it is a device that was never proved here. Several are left: each is proved and
measured, and the fastest serves. The processor needs no proof: devices are compared with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edged.hardware.measured import Record
from edged.hardware.place import Place
from edged.hardware.providers import CPU


@dataclass(frozen=True, slots=True)
class Serve:
    """reason: of the choice, for people."""

    place: Place
    reason: str


@dataclass(frozen=True, slots=True)
class Prove:
    """Compare what it computes with the processor, and measure it if others are left to compare with."""

    place: Place
    measure: bool


@dataclass(frozen=True, slots=True)
class Measure:
    place: Place


@dataclass(frozen=True, slots=True)
class Refuse:
    """Nothing is left. reasons: one for each place."""

    reasons: tuple[str, ...]


Step = Serve | Prove | Measure | Refuse


def next_step(places: Sequence[Place], known: Callable[[str], Record], failed: Mapping[str, str]) -> Step:
    """places: best guess first, refused ones too. known: what is recorded of the form, by key of a place. failed: by
    key, why it could not be tried this time."""
    reasons = {place.key: _lacking(place, known(place.key), failed) for place in places}
    left = [place for place in places if reasons[place.key] is None]
    if not left:
        return Refuse(tuple(filter(None, reasons.values())))
    several = len(left) > 1
    for place in left:
        if place.provider != CPU and known(place.key).verdict is None:
            return Prove(place, measure=several)
    if not several:
        return Serve(left[0], _only(left[0], [reason for reason in reasons.values() if reason]))
    for place in left:
        if known(place.key).speed is None:
            return Measure(place)
    speeds = [(speed.seconds, place, speed) for place in left if (speed := known(place.key).speed) is not None]
    _, best, speed = min(speeds, key=lambda one: one[0])
    others = "; ".join(f"{place.provider}: {other.words()}" for _, place, other in speeds if place is not best)
    return Serve(best, f"measured here: {speed.words()} ({others})")


def _lacking(place: Place, record: Record, failed: Mapping[str, str]) -> str | None:
    if place.refused is not None:
        return place.refused
    if record.verdict is not None and not record.verdict.passed:
        return record.verdict.reason
    return failed.get(place.key)


def _only(place: Place, reasons: Sequence[str]) -> str:
    told = "; ".join(reasons)
    return f"{place.provider} is the only one that can run it here" + (f" ({told})" if told else "")
