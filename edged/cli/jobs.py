"""`edged jobs`: the pulls and conversions of the running daemon."""

from __future__ import annotations

import contextlib
from typing import Annotated

import msgspec
from cyclopts import Parameter
from msgspec import Struct

from edged.cli.exit_codes import ExitCode
from edged.cli.options import Home, Json
from edged.cli.output import answer, answer_json, duration, size, table
from edged.cli.progress import show_for
from edged.cli.target import Running, daemon
from edged.daemon.failures import revive
from edged.daemon.job import JobEvent, JobKind, JobState
from edged.errors import InvalidRequest


class JobList(Struct, frozen=True):
    jobs: list[JobEvent]


class JobLog(Struct, frozen=True):
    log: str


def jobs(
    identity: Annotated[str | None, Parameter(help="One job: followed to its end.")] = None, /, *,
    cancel: Annotated[bool, Parameter(help="End it; nothing of it is kept but what was fetched.", negative="")] = False,
    log: Annotated[bool, Parameter(help="What the libraries of a conversion printed.", negative="")] = False,
    home: Home = None, json: Json = False,
) -> int:
    """List the pulls and conversions of this run of the daemon, or follow one.

    As in:

    ```
    edged jobs
    edged jobs pull-1
    edged jobs convert-0f3b5a1c9d2e4f60 --cancel
    ```
    """
    running = daemon(home)
    if identity is None:
        if cancel or log:
            raise InvalidRequest("name the job; `edged jobs` lists them")
        return _list(running, json=json)
    if cancel:
        return _tell(running.client.post(f"/edged/v1/jobs/{identity}/cancel", {}, JobEvent), json=json)
    if log:
        answer(running.client.get(f"/edged/v1/jobs/{identity}/log", JobLog).log.rstrip())
        return ExitCode.OK
    return _follow(running, identity, json=json)


def _list(running: Running, *, json: bool) -> int:
    found = running.client.get("/edged/v1/jobs", JobList).jobs
    if json:
        answer_json(found)
    elif not found:
        answer("no pull and no conversion was started since the daemon did")
    else:
        answer(table(("ID", "REFERENCE", "STATE", "TIME", "DONE"), [
            (job.id, job.reference, job.state.value, duration(job.seconds), _done(job)) for job in found]))
    return ExitCode.OK


def _follow(running: Running, identity: str, *, json: bool) -> int:
    last = running.client.get(f"/edged/v1/jobs/{identity}", JobEvent)
    with show_for(json=json, stages=last.kind is JobKind.CONVERSION) as show, contextlib.closing(
            running.client.events(f"/edged/v1/jobs/{identity}/events")) as events:
        for data in events:
            last = msgspec.json.decode(data, type=JobEvent)
            if last.progress is not None:
                show(last.progress)
    if last.error is not None and not json:
        raise revive(last.error)
    return _tell(last, json=json)


def _tell(job: JobEvent, *, json: bool) -> int:
    if json:
        answer_json(job)
    else:
        made = f": {job.manifest.name}@{job.manifest.version}" if job.manifest else ""
        answer(f"{job.id} is {job.state.value}{made}")
    return ExitCode.FAILED if job.state is JobState.FAILED else ExitCode.OK


def _done(job: JobEvent) -> str:
    if job.error is not None:
        return job.error.message
    if job.manifest is not None:
        return f"{job.manifest.name}@{job.manifest.version}"
    moment = job.progress
    if moment is None:
        return "-"
    if moment.fraction is not None:
        return f"{moment.stage} {moment.fraction:.0%}"
    if not moment.total_bytes:
        return moment.stage
    return f"{size(moment.done_bytes)} of {size(moment.total_bytes)}"
