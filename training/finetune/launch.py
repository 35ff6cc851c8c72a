"""A fine-tuning on several devices: `accelerate launch` of `training.finetune.launched`, one process a device.

The first of the processes writes what `training.finetune.launched` describes to standard output, a line each; all that
libraries write goes to `launch.log` in the stage's folder. They learn by the recipe as the run read it, whatever its
file says meanwhile: by `launch.json`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path

import msgspec
from msgspec import Struct

from converters.child import die_with_parent
from converters.quiet import ENVIRONMENT
from edged.errors import EdgedError, TrainingFailed
from edged.store import files
from edged.store.entries import JobFailed
from edged.toml_file import TomlFile
from training.recipe import decoded
from training.run import Moment, Run, Tell, Trained

LOG = "launch.log"
_BEGIN = "launch.json"
_GRACE_S = 5.0


class Begin(Struct, frozen=True):
    """What each process is told. recipe: path of the recipe's file; text: what was read of it."""

    folder: str
    recipe: str
    text: str

    def run(self) -> Run:
        file = TomlFile(Path(self.recipe), self.text, tomllib.loads(self.text))
        return Run(Path(self.folder), decoded(file, file.values), file)


class Said(Struct, frozen=True, omit_defaults=True):
    """One line: exactly one of these."""

    moment: Moment | None = None
    trained: Trained | None = None
    failed: JobFailed | None = None


class LaunchedFailed(EdgedError):
    """What a process of its own raised, told here."""

    def __init__(self, failed: JobFailed) -> None:
        super().__init__(failed.message, code=failed.code)
        self.status, self.type, self.retry = failed.status, failed.type, failed.retry  # type: ignore[misc]


def launched(run: Run, devices: int, tell: Tell) -> Trained:
    """Raises TrainingFailed where a process ends without a word; what the first one raised. Whatever is raised here
    meanwhile ends them all."""
    begin = run.path("finetune") / _BEGIN
    files.publish_bytes(begin, msgspec.json.encode(Begin(str(run.folder), str(run.file.path), run.file.text)),
                        begin.parent)
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(devices),
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
        "-m", "training.finetune.launched", str(begin)]
    ended: Said | None = None
    log = run.path("finetune") / LOG
    with log.open("wb") as errors, subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, env={**os.environ, **ENVIRONMENT},
        preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                said = _said(line)
                if said is None:
                    errors.write(line)
                elif said.moment is not None:
                    tell(said.moment)
                else:
                    ended = said
        except BaseException:
            _end(process)
            raise
    if ended is not None and ended.failed is not None:
        raise LaunchedFailed(ended.failed)
    if ended is None or ended.trained is None:
        raise TrainingFailed(f"one of {devices} processes ended before the training did; {log} tells why. Run the same "
                             "command again to go on, or say devices = 1")
    return ended.trained


def _said(line: bytes) -> Said | None:
    """None of what a library wrote."""
    try:
        said = msgspec.json.decode(line, type=Said)
    except msgspec.MsgspecError:
        return None
    return said if said != Said() else None


def _end(process: subprocess.Popen[bytes]) -> None:
    """The launcher ends its processes when it is asked to end; they end themselves when it is killed."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
