"""The loop of a search: idle workers get trials until there are enough, and what they say goes into the study."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edged.errors import Internal
from edged.store import files
from training.run import Moment, Tell
from training.search.messages import Answer, Died, Ended, Evaluated, Failed, Live, Pruned, Try
from training.search.pool import Pool
from training.search.study import Study

STAGE: Literal["search"] = "search"
#: So many trials that failed, and none that did not, are a mistake that the others would make too.
_FAILURES_AT_FIRST = 3


def make_trials(study: Study, pool: Pool, *, trials: int, jobs: int, folder: Path, tell: Tell) -> None:
    """Until `trials` have ended, those of earlier attempts among them. folder: of the trials' own folders. Raises
    Internal where the first ones all fail."""
    running: dict[int, int] = {}
    shares: dict[int, float] = {}
    while True:
        for job in range(jobs):
            if job not in running and study.ended_trials + len(running) < trials:
                number, settings = study.next()
                running[job], shares[job] = number, 0.0
                pool.send(job, Try(number, settings, str(_fresh(folder, number))))
                tell(Moment(stage=STAGE, what=_what(number), note=f"trial {number}: {shown(settings)}"))
        if not running:
            return
        job, message = pool.get()
        if job not in running:
            continue
        number = running[job]
        match message:
            case Evaluated(evaluation=evaluation, value=value):
                pool.send(job, Answer(study.report(number, evaluation, value)))
            case Live(fraction=fraction, figures=figures):
                shares[job] = fraction if fraction is not None else shares[job]
                tell(Moment(stage=STAGE, what=_what(number), figures=figures,
                            fraction=min(1.0, (study.ended_trials + sum(shares.values())) / trials)))
            case Ended() | Pruned() | Failed() | Died():
                told = _record(study, number, message)
                del running[job], shares[job]
                tell(Moment(stage=STAGE, what=_what(number), note=f"trial {number} {told}",
                            fraction=min(1.0, (study.ended_trials + sum(shares.values())) / trials),
                            figures={} if (best := study.best_value) is None else {"best": best}))
                _require_some(study)


def shown(settings: dict[str, str | float | int | bool]) -> str:
    return ", ".join(f"{key} = {value:.4g}" if isinstance(value, float) else f"{key} = {value}"
                     for key, value in settings.items())


def _record(study: Study, number: int, message: Ended | Pruned | Failed | Died) -> str:
    match message:
        case Ended(value=value, figures=figures):
            study.ended(number, value, figures)
            return f"came to {value:.4g}"
        case Pruned():
            study.pruned(number)
            return "was pruned: it was worse than half of the others at this point"
        case Failed(reason=reason) | Died(reason=reason):
            study.failed(number, reason)
            return f"failed: {reason}"


def _require_some(study: Study) -> None:
    failures = study.failures()
    if len(failures) >= _FAILURES_AT_FIRST and study.best_value is None:
        raise Internal(f"the first {len(failures)} trials all failed, the recipe as it is written among them: "
                       f"{failures[0]}")


def _fresh(folder: Path, number: int) -> Path:
    """The trial's own folder, without what a trial of that number left before."""
    place = folder / f"{number:03}"
    if place.exists():
        files.remove_tree(place)
    files.make_folder(place)
    return place


def _what(number: int) -> str:
    return f"trial {number}"
