"""A job of the daemon, or one of this command, until it ends."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from edged.cli.client import stream_error
from edged.cli.output import answer_json
from edged.cli.progress import Show
from edged.cli.target import Running
from edged.daemon.failures import revive
from edged.daemon.job import JobEvent, JobKind, JobState, cancelled
from edged.errors import EdgedError, Internal
from edged.store.entries import JobFailed, JobLine, Manifest


def follow(running: Running, path: str, body: dict[str, Any], kind: JobKind, show: Show) -> Manifest:
    """The job goes on in the daemon when this command ends; ctrl-C means that it shall not. body: without `stream`.
    Raises the job's error."""
    told: set[str] = set()
    last: JobEvent | None = None
    try:
        with contextlib.closing(running.client.events(path, {**body, "stream": True})) as events:
            for data in events:
                last = _event(data, kind)
                if last.progress is not None:
                    notes = [note for note in last.notes if note not in told]
                    told.update(notes)
                    for note in notes:
                        show(msgspec.structs.replace(last.progress, note=note))
                    show(msgspec.structs.replace(last.progress, note=None))
    except KeyboardInterrupt:
        if last is not None:
            running.client.post(f"/edged/v1/jobs/{last.id}/cancel", {}, JobEvent)
        raise
    if last is None or last.state is JobState.RUNNING:
        raise Internal(f"the daemon ended the connection before the {kind} ended; ask again, and it goes on from there")
    if last.error is not None:
        raise revive(last.error)
    if last.manifest is None:
        raise cancelled(kind, last.reference)
    return last.manifest


def _event(data: bytes, kind: JobKind) -> JobEvent:
    try:
        return msgspec.json.decode(data, type=JobEvent)
    except msgspec.ValidationError:
        raise stream_error(data) or Internal(
            f"the daemon tells of the {kind} in another way than this command expects") from None


def run_here(command: Sequence[str], environment: Mapping[str, str], kind: JobKind, show: Show) -> Manifest:
    """The same without a daemon: a child of this command. ctrl-C reaches it, too: it tidies up and ends. Raises the
    job's error."""
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        last: JobLine | None = None
        try:
            for raw in process.stdout:
                last = msgspec.json.decode(raw, type=JobLine)
                if last.progress is not None:
                    show(last.progress)
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    if last is not None and last.error is not None:
        raise revive(last.error)
    if last is None or last.manifest is None:
        raise Internal(f"the {kind} ended early with exit code {process.returncode}; the lines above may say why")
    return last.manifest


def tell_failure(error: EdgedError) -> None:
    """For scripts: the error as the job's last line."""
    answer_json(JobLine(error=JobFailed(
        status=error.status, type=error.type, message=error.message, code=error.code, retry=error.retry)))
