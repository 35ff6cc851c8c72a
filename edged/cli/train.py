"""`edged train`: the training companion, in a process of its own that has this terminal."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated

from cyclopts import Parameter

from edged.cli.exit_codes import ExitCode
from edged.cli.options import Home, Json
from edged.cli.output import say
from edged.cli.target import store_of

#: A wait with a deadline looks every 50 ms.
LOOK_S = 60.0
#: For the child to end after ctrl-C, which the terminal sends to both.
GRACE_S = 2.0


def train(
    recipe: Annotated[Path, Parameter(help="A TOML file that says what is learned from what; edged/TRAINING.md "
                                           "describes it.")],
    /, *,
    plan: Annotated[bool, Parameter(help="Only tell which stages would run, which have ended, and what they need.",
                                    negative="")] = False,
    folder: Annotated[Path | None, Parameter(help="Where the run is kept; else where the recipe says, else "
                                                  "runs/NAME beside it.")] = None,
    again: Annotated[bool, Parameter(help="Do every stage anew.", negative="")] = False,
    home: Home = None, json: Json = False,
) -> int:
    """Train a model as a recipe says, measure it, convert it and serve it.

    Stages that have ended are passed over unless what they depend on has changed, so the same command trains on new
    data, and goes on after an interruption. `edged rollback NAME` goes back to the version that served before.

    As in:

    ```
    edged train home.toml
    edged train home.toml --plan
    ```
    """
    target = store_of(home)
    command = [sys.executable, "-m", "training", "plan" if plan else "run", "--recipe", str(recipe)]
    command += ["--folder", str(folder)] if folder is not None else []
    command += ["--json"] * json + ["--again"] * again
    return run_child(command, {**os.environ, "EDGED_HOME": str(target.home)})


def run_child(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Its exit code. Nothing of the folder in which it starts is run, such as a Python file beside a recipe that has
    the name of a library. It has the terminal and the signals; whatever ends it, the same command goes on."""
    with subprocess.Popen(command, env={**environment, "PYTHONSAFEPATH": "1"}, stdin=subprocess.DEVNULL) as process:
        def end(number: int, frame: FrameType | None) -> None:
            process.send_signal(number)

        before = signal.signal(signal.SIGTERM, end)
        try:
            code = _ended(process)
        except KeyboardInterrupt:
            code = _interrupted(process)
        finally:
            signal.signal(signal.SIGTERM, before)
    if code == -signal.SIGKILL:
        say("edged: the training was killed, perhaps because memory ran out; a smaller batch_size, checkpointing = "
            "true or other programs closed leave more. The same command goes on where it was")
        return ExitCode.FAILED
    return 128 - code if code < 0 else code


def _ended(process: subprocess.Popen[bytes]) -> int:
    """Its exit code. Looked for twenty times a second and never waited for in one call: a signal that comes just before
    a call that blocks is otherwise seen only after it."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(LOOK_S)


def _interrupted(process: subprocess.Popen[bytes]) -> int:
    """ctrl-C has reached the child, too; a signal to this process alone has not."""
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()
    return ExitCode.INTERRUPTED
