"""When each version of a name became its active one: `manifests/<name>/history`, oldest first, of bounded length.

The pointer is the truth. The history is written just before it, so a crash in between leaves a last entry that never
came to be; and an edged that kept no history moves the pointer alone. `effective` sees through both. Pure but for the
file's own format.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

import msgspec

from edged.store.entries import ActivatedBy, Activation

MOST = 100

_decoder = msgspec.json.Decoder(tuple[Activation, ...])


def decode(data: bytes) -> tuple[Activation, ...]:
    """A damaged history is no history: the pointer alone decides what serves."""
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ()


def encode(history: Sequence[Activation]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(history[-MOST:]), indent=2)


def effective(recorded: Sequence[Activation], active: str | None, active_since: float) -> tuple[Activation, ...]:
    """What is recorded, made to end with the version that the pointer names. active_since: seconds since 1970."""
    history = tuple(recorded)
    if active is None or (history and history[-1].version == active):
        return history
    if len(history) > 1 and history[-2].version == active:
        return history[:-1]
    return (*history, Activation(version=active, at=active_since, by="unknown"))


def extended(history: Sequence[Activation], version: str, at: float, by: ActivatedBy) -> tuple[Activation, ...]:
    """With one activation more; the same where the version is active already."""
    if history and history[-1].version == version:
        return tuple(history)
    return (*history, Activation(version=version, at=at, by=by))


def before(history: Sequence[Activation], installed: Container[str]) -> str | None:
    """The version that a roll-back goes to: what was active before, of what is still here. One roll-back after another
    walks further back, as undo does; any other activation is a new step to come back from."""
    steps: list[str] = []
    for each in history:
        if each.by == "rollback" and each.version in steps:
            while steps[-1] != each.version:
                steps.pop()
        elif not steps or steps[-1] != each.version:
            steps.append(each.version)
    return next((version for version in reversed(steps[:-1]) if version != steps[-1] and version in installed), None)
