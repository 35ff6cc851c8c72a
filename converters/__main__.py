"""`python -m converters FOLDER`: the conversion that `FOLDER/spec.json` asks for (`edged.store.job_folders`), as the
daemon runs it. FOLDER is `jobs/<id>/` of a store.

It prints `JobLine`s as JSON, the last one with the manifest or the error, and ends with 0 or 1. It may be killed at any
instant: the same command goes on after the last stage that ended. SIGTERM cancels it, which leaves nothing of it.
What libraries print goes to `FOLDER/log.txt`.
"""

from __future__ import annotations

import os

# tqdm asks once, when it is imported; a log has no use for bars.
os.environ["TQDM_DISABLE"] = "1"

import argparse
import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import msgspec

from converters import quiet
from converters.child import StageFailed, explained, failed_by
from converters.job import Cancelled, StageKind, convert
from converters.recipe import load_recipe
from converters.stages import STAGES, made
from converters.work import Work
from edged.errors import BadReference, ConfigError, EdgedError
from edged.hardware.probe import probe
from edged.settings import load_settings
from edged.store import Store, job_folders
from edged.store.entries import JobLine, JobProgress
from edged.store.files import FILE_MODE
from edged.store.job_folders import JobResult
from edged.store.lineage import ConversionSpec
from edged.store.sources.transfer import HubSettings

#: Behind everything that serves.
NICENESS = 10
#: Read above, and nothing for the libraries of a conversion to know.
_SECRETS = ("HF_TOKEN", "EDGED_HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


class _Out:
    """The real standard output; file descriptor 1 belongs to the log."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def line(self, line: JobLine) -> None:
        view = memoryview(msgspec.json.encode(line) + b"\n")
        while view:
            view = view[os.write(self._fd, view):]

    def tell(self, moment: JobProgress) -> None:
        if moment.note is not None:
            print(f"[{moment.stage}] {moment.note}", flush=True)
        self.line(JobLine(progress=moment))

    def failed(self, error: EdgedError) -> int:
        self.line(JobLine(error=failed_by(error)))
        return 1


def main(arguments: Sequence[str] | None = None, stages: Sequence[StageKind] = STAGES) -> int:
    parser = argparse.ArgumentParser(prog="python -m converters", description="Run one conversion job; JSON lines.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--beside-others", action="store_true", help="do not wait for other conversions of this store")
    said = parser.parse_args(arguments)
    out = _Out(os.dup(1))
    signal.signal(signal.SIGTERM, _cancel)
    try:
        folder = said.folder.absolute()
        spec = _asked(folder)
        _print_to(folder / job_folders.LOG_FILE)
        work = _opened(folder, spec)
        _be_modest()
        manifest = convert(work, stages, made, out.tell, beside_others=said.beside_others)
        out.line(JobLine(manifest=manifest))
    except BrokenPipeError:
        # Nobody reads any more: the daemon is gone. The job is gone on with when it is back.
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except StageFailed as error:
        out.line(JobLine(error=error.failed))
        return 1
    except EdgedError as error:
        return out.failed(error)
    except OSError as error:
        return out.failed(explained("start", error))
    return 0


def _asked(folder: Path) -> ConversionSpec:
    """Raises BadReference where the folder is no job's."""
    try:
        spec = job_folders.read_spec(folder)
    except (OSError, msgspec.MsgspecError) as error:
        raise BadReference(f"{folder} holds no conversion that was asked for; `edged convert` makes one") from error
    if folder.parent.name != "jobs" or folder.name != job_folders.identity(spec):
        raise BadReference(f"{folder} is not the folder of the conversion that its {job_folders.SPEC_FILE} asks for")
    return spec


def _opened(folder: Path, spec: ConversionSpec) -> Work:
    """Raises ConfigError, which is the job's result then."""
    settings, _ = load_settings()
    token = settings.hf_token.get_secret_value() if settings.hf_token is not None else None
    store = Store(folder.parent.parent)
    try:
        recipe = load_recipe(spec.recipe)
    except ConfigError as error:
        job_folders.write_result(store.layout, folder, JobResult(
            state="failed", name=spec.name, error=failed_by(error)))
        raise
    return Work(folder=folder, spec=spec, recipe=recipe, store=store,
                hub=HubSettings(endpoint=settings.hf_endpoint, token=token))


def _print_to(log: Path) -> None:
    """Python's and every native library's standard output and error."""
    sys.stdout.flush()
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


def _be_modest() -> None:
    """For this process and all its children: idle time only, as many threads as compute well together, no telemetry."""
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    os.environ.setdefault("OMP_NUM_THREADS", str(probe().cpu.threads))
    os.environ.update(quiet.ENVIRONMENT)
    for name in _SECRETS:
        os.environ.pop(name, None)


def _cancel(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Cancelled(128 + number)


if __name__ == "__main__":
    sys.exit(main())
