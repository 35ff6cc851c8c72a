"""What a stage leaves in the folder of stage `evaluate`, for it to be forgotten with the stage."""

from __future__ import annotations

from pathlib import Path

from training import opened
from training.run import Run, StageName

#: Subjects that stage `evaluate` itself measures; the others there are of stage `served`.
_OF_EVALUATE = ("teacher", "before", "student", "trained")


def left_elsewhere(run: Run, stage: StageName) -> list[Path]:
    """Beside the stage's own folder; of a group, in the runs of its members."""
    if stage != "served":
        return []
    from training.evaluate.race import ROUNDS_FILE

    folders = [each.path("evaluate") for each in opened.members(run) or (run,)]
    found = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())
             if path.name not in _OF_EVALUATE and path.is_dir()]
    return [*found, *(rounds for folder in folders if (rounds := folder / ROUNDS_FILE).exists())]
