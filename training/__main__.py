"""`python -m training STAGE --recipe FILE`: one stage of a training, or all of them.

Progress goes to standard error: bars in a terminal, plain lines elsewhere. With --json every moment is a line on
standard output, and the last line tells the result or the error. The exit codes are those of `edged`. It may be killed
at any instant: the same command goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from converters import quiet
from edged.errors import EdgedError
from training import chain, endings, opened, outcome, plan, preflight
from training.packages import require_packages
from training.run import Run, StageName
from training.show import Show, of_member, show_for

#: Commands that are several stages.
GROUPS: dict[str, tuple[StageName, ...]] = {
    "distil": ("answers", "student"),
    "run": tuple(chain.PLACES),
}


def main(arguments: Sequence[str] | None = None) -> int:
    said = _parser().parse_args(arguments)
    os.environ.update(quiet.ENVIRONMENT)
    signal.signal(signal.SIGTERM, _stop)
    show = show_for(json=said.json)
    try:
        run = opened.open_run(said.recipe, said.folder)
        if said.stage == "plan":
            preflight.check(run)
            show.result(plan.plan(run))
            return endings.OK
        require_packages()
        with contextlib.ExitStack() as stack:
            for each in (*opened.members(run), run):
                stack.enter_context(opened.held(each))
            stack.enter_context(show)
            _run(run, said.stage, show, again=said.again)
        came = outcome.outcome(run, stages(said.stage))
        show.result(came)
        return endings.OK if came.good else endings.NOT_GOOD_ENOUGH
    except EdgedError as error:
        show.failed(error)
        return endings.code_of(error)
    except KeyboardInterrupt:
        show.say("interrupted; the same command goes on where it was")
        return endings.INTERRUPTED
    except BrokenPipeError:
        # Nobody reads any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return endings.FAILED
    except OSError as error:
        show.failed(endings.of_files(error))
        return endings.FAILED


def stages(asked: str) -> tuple[StageName, ...]:
    return GROUPS[asked] if asked in GROUPS else tuple(name for name in chain.PLACES if name == asked)


def _run(run: Run, asked: str, show: Show, *, again: bool) -> None:
    names = stages(asked)
    if asked not in GROUPS:
        chain.run_stage(run, names[0], show, again=again)
        return
    preflight.check(run)
    preflight.forget_old_models(run)
    of_members = [name for name in names if name in chain.OF_MEMBERS]
    for member in opened.members(run):
        chain.run_stages(member, of_member(member.recipe.name, show), names=of_members, again=again)
    chain.run_stages(run, show, names=names, again=again)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training", description="Train a model as a recipe says: one stage, or all of them (run).")
    parser.add_argument("stage", choices=[*chain.PLACES, *GROUPS, "plan"], metavar="STAGE",
                        help=", ".join([*chain.PLACES, *GROUPS, "plan"]))
    parser.add_argument("--recipe", type=Path, required=True, help="a TOML file; edged/TRAINING.md describes it")
    parser.add_argument("--folder", type=Path, help="the run folder; else the recipe's, else runs/NAME beside it")
    parser.add_argument("--json", action="store_true", help="JSON lines on standard output")
    parser.add_argument("--again", action="store_true", help="anew, with nothing of an earlier run of the stage")
    return parser


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
