"""/edged/v1/pull, convert and jobs: jobs go on whether or not their client stays."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import ASGIApp, HTTPScope, Receive, Send
from msgspec import Struct

from edged.api import sse
from edged.api.connection import send_json, unless_gone
from edged.api.exchange import Services, exchange_of
from edged.api.fields import (
    MAX_ADAPTER_NAME,
    Table,
    accept,
    boolean,
    items,
    list_schema,
    schema_of,
    served,
    takes,
    text,
    wrong,
)
from edged.api.limits import ClientGone, read_json
from edged.api.wire import OPENAI
from edged.daemon.job import JobEvent
from edged.store.conversion import specify

if TYPE_CHECKING:
    from edged.daemon.job import Job

_PATH = text(4096, min_length=1)
PULL: Table = {
    "model": served(text(512, min_length=1), required=True), "stream": served(boolean),
    "adapter_of": served(text(512, min_length=1)), "as": served(text(MAX_ADAPTER_NAME, min_length=1)),
}


@takes(list_schema(schema_of(_PATH), range(17)))
def _adapters(value: Any, path: str) -> tuple[str, ...]:
    return tuple(items(value, path, _PATH, "a list of up to 16 adapters", range(17)))


CONVERT: Table = {
    "source": served(_PATH, required=True), "name": served(text(200, min_length=1)), "adapters": served(_adapters),
    "recipe": served(_PATH), "calibration": served(_PATH), "tasks": served(_PATH), "accept_loss": served(boolean),
    "activate": served(boolean), "stream": served(boolean), "wait": served(boolean),
}


class JobList(Struct, frozen=True):
    jobs: list[JobEvent]


class JobLog(Struct, frozen=True):
    """log: the last lines that the libraries of a conversion printed."""

    log: str


def _followed(job: Job, services: Services) -> ASGIApp:
    """The job's moments as events; the last one is not `running`, and says how it ended."""

    async def follow(scope: HTTPScope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)

        async def write() -> None:
            stream = sse.EventStream(send, OPENAI, services.settings.heartbeat_s, [])
            heart = asyncio.create_task(stream.beat())
            try:
                async for event in job.events():
                    await stream.write(sse.framed(OPENAI, [event]))
            finally:
                heart.cancel()
                await asyncio.wait({heart})
            await stream.write(b"", more=False)

        try:
            await unless_gone(write(), receive)
        except ClientGone:
            exchange.status = ClientGone.status

    return follow  # type: ignore[return-value]


def _awaited(job: Job) -> ASGIApp:
    async def wait(scope: HTTPScope, receive: Receive, send: Send) -> None:
        async def write() -> None:
            await job.result()
            await send_json(send, job.status())

        await unless_gone(write(), receive)

    return wait  # type: ignore[return-value]


def _told(job: Job) -> ASGIApp:
    async def tell(scope: HTTPScope, receive: Receive, send: Send) -> None:
        await send_json(send, job.status())

    return tell  # type: ignore[return-value]


def routes(services: Services) -> list[HTTPRouteHandler]:
    jobs = services.jobs

    @post("/pull", status_code=200)
    async def pull(request: Request[Any, Any, Any]) -> ASGIApp:
        """Joins the pull of the same model that runs already. Without `stream` it waits for the end. With `adapter_of`
        what is pulled is a LoRA for that model, which requests name as `as` says."""
        body = accept(PULL, await read_json(request.scope, request.receive, services.limits), unknown="refuse").values
        if (model := body.get("adapter_of")) is not None:
            job = await jobs.pull_adapter(model, body["model"], body.get("as"))
        elif "as" in body:
            raise wrong("as", "left out without `adapter_of`: it names an adapter")
        else:
            job = await jobs.pull(body["model"])
        return _followed(job, services) if body.get("stream", False) else _awaited(job)

    @post("/convert", status_code=200)
    async def convert(request: Request[Any, Any, Any]) -> ASGIApp:
        """Joins the same conversion that runs already. With `stream` its moments, with `wait` only its end; else it is
        begun and told of."""
        body = accept(
            CONVERT, await read_json(request.scope, request.receive, services.limits), unknown="refuse").values
        stream, wait = body.pop("stream", False), body.pop("wait", False)
        job = await jobs.convert(specify(**body))
        if stream:
            return _followed(job, services)
        return _awaited(job) if wait else _told(job)

    @get("/jobs", sync_to_thread=False)
    def list_jobs() -> JobList:
        return JobList([job.status() for job in jobs.list()])

    @get("/jobs/{identity:str}", sync_to_thread=False)
    def one_job(identity: FromPath[str]) -> JobEvent:
        return jobs.get(identity).status()

    @get("/jobs/{identity:str}/events")
    async def job_events(identity: FromPath[str]) -> ASGIApp:
        return _followed(jobs.get(identity), services)

    @get("/jobs/{identity:str}/log")
    async def job_log(identity: FromPath[str]) -> JobLog:
        return JobLog(await asyncio.to_thread(jobs.log_of, identity))

    @post("/jobs/{identity:str}/cancel", status_code=200, sync_to_thread=False)
    def cancel_job(identity: FromPath[str]) -> JobEvent:
        return jobs.cancel(identity).status()

    return [pull, convert, list_jobs, one_job, job_events, job_log, cancel_job]
