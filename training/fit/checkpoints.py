"""Checkpoints of one fit: `checkpoints/checkpoint-<step>/`, as the trainer writes them, each whole or as if not there.

The trainer writes a folder file by file. `whole` puts the marker into it last, when all is on the disk; a folder
without one is what a kill left, and `begin` takes it away. The newest and the best stay. One process, the main one of
several, calls what changes files here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edged.store import files

FOLDER = "checkpoints"
#: Says for which fit the checkpoints are: those of another would go on with its weights.
_FIT = "fit.txt"
_MARKER = "whole"
_STATE = "trainer_state.json"


def begin(folder: Path, identity: str) -> None:
    """folder: of the fit, whose parent exists; identity: of all that decides its result. Afterwards only whole
    checkpoints of this very fit are there."""
    made = folder / FOLDER
    files.make_folder(folder)
    if made.exists() and _identity(made) != identity:
        # The mark goes first, so that a kill meanwhile leaves nothing that looks like this fit.
        files.remove(made / _FIT)
        files.remove_tree(made)
    if not made.exists():
        files.make_folder(made)
        files.publish_bytes(made / _FIT, identity.encode(), made)
    for each in made.iterdir():
        if each.is_dir() and not (each / _MARKER).exists():
            files.remove_tree(each)


def newest(folder: Path) -> Path | None:
    """To go on with; None: from the beginning."""
    whole = _steps(folder / FOLDER)
    return at(folder, whole[-1]) if whole else None


def at(folder: Path, step: int) -> Path:
    return folder / FOLDER / f"checkpoint-{step}"


def mark_whole(checkpoint: Path) -> None:
    """All that was written into it is on the disk, and then the marker that says so."""
    for each in sorted(checkpoint.rglob("*")):
        if each.is_file():
            files.sync_file(each)
    files.sync_folder(checkpoint)
    files.publish_bytes(checkpoint / _MARKER, b"", checkpoint)


def keep(folder: Path, steps: set[int]) -> None:
    """Take the checkpoints of other steps away. The marker of each goes first."""
    for step in _steps(folder / FOLDER):
        if step not in steps:
            files.remove(at(folder, step) / _MARKER)
            files.remove_tree(at(folder, step))


def log_of(checkpoint: Path) -> list[dict[str, Any]]:
    """What the trainer had logged when it was written."""
    log: list[dict[str, Any]] = json.loads((checkpoint / _STATE).read_bytes())["log_history"]
    return log


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _steps(made: Path) -> list[int]:
    return sorted(step_of(each) for each in made.glob("checkpoint-*") if (each / _MARKER).exists())


def _identity(made: Path) -> str | None:
    try:
        return (made / _FIT).read_text()
    except FileNotFoundError:
        return None
