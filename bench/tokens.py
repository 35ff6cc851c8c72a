"""`python -m bench.tokens`: what a token costs beside the engine, in CPU time.

`edged serve` with a fake model of 64 rows whose logits cost next to nothing, 64 chats at once from one process. CPU
time (user and system) of the daemon and of its worker over the tokens that were answered: other load on the machine
moves it less than a wall time, but shared caches and hyper-threads move it too, so compare runs that were made turn
about. A step is made to take `--step-ms`, as a model's would: without that the daemon would find many frames at once
and look better than it is. `--sampler` measures the sampler alone instead (`bench.sampling`).
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

import cyclopts
import httpx
import psutil
from rich.console import Console
from rich.table import Table

from bench import sampling
from bench.client import BenchError, burst
from edged.store import Store
from tests.daemon import Daemon
from tests.worker.daemon.rig import install

MODEL = "tokens"
STREAMS = 64

out = Console()
app = cyclopts.App(name="python -m bench.tokens", help=__doc__, help_format="plaintext", version_flags=[])


#: Tokens and events of all answers.
Ask = Callable[[str, list[dict[str, Any]]], Coroutine[Any, Any, tuple[int, int]]]


class Cost(NamedTuple):
    """CPU µs of each answered token. events: tokens told in one server-sent event, mean; 0 of plain answers."""

    daemon: float
    worker: float
    client: float
    per_event: float


def _bodies(streams: int, tokens: int, **more: Any) -> list[dict[str, Any]]:
    return [{"model": MODEL, "messages": [{"role": "user", "content": f"stream {number}"}], "max_tokens": tokens,
             "temperature": 0, **more} for number in range(streams)]


async def _streaming(url: str, bodies: list[dict[str, Any]]) -> tuple[int, int]:
    told = {"stream": True, "stream_options": {"include_usage": True}}
    answers = (await burst(url, "chat", [{**body, **told} for body in bodies])).answers
    return sum(answer.completion_tokens for answer in answers), sum(answer.events for answer in answers)


async def _plain(url: str, bodies: list[dict[str, Any]]) -> tuple[int, int]:
    limits = httpx.Limits(max_connections=len(bodies))
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        answers = await asyncio.gather(*(client.post("/v1/chat/completions", json=body) for body in bodies))
    for answer in answers:
        if answer.status_code != 200:
            raise BenchError(f"the server answered {answer.status_code}: {answer.text[:500]}")
    return sum(answer.json()["usage"]["completion_tokens"] for answer in answers), 0


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def measure(daemon: Daemon, ask: Ask, bodies: list[dict[str, Any]]) -> Cost:
    (worker,) = daemon.workers()
    processes = (psutil.Process(daemon.pid), worker, psutil.Process())
    before = [_cpu_s(process) for process in processes]
    tokens, events = asyncio.run(ask(daemon.base_url, bodies))
    if tokens != sum(body["max_tokens"] for body in bodies):
        raise BenchError(f"{tokens} tokens came; an answer ended too early")
    spent = [(_cpu_s(process) - then) / tokens * 1e6 for process, then in zip(processes, before, strict=True)]
    return Cost(spent[0], spent[1], spent[2], tokens / events if events else 0.0)


def show(costs: dict[str, list[Cost]]) -> None:
    table = Table("CPU µs a token, median", *Cost._fields, box=None, header_style="bold")
    for name, rounds in costs.items():
        table.add_row(name, *(f"{statistics.median(values):.1f}" for values in zip(*rounds, strict=True)))
    out.print(table)


@app.default
def main(*, streams: int = STREAMS, tokens: int = 200, step_ms: float = 20, rounds: int = 3, sampler: bool = False,
         ) -> None:
    """Prints a table.

    Parameters
    ----------
    streams
        Chats at once; the model has as many rows.
    tokens
        Of each answer.
    step_ms
        How long the fake engine takes for a step.
    rounds
        Of which the medians are printed.
    sampler
        The sampler alone, at large vocabularies.
    """
    if sampler:
        sampling.show(out)
        return
    costs: dict[str, list[Cost]] = {"streaming": [], "plain": []}
    try:
        with tempfile.TemporaryDirectory(prefix="edged-tokens-") as folder, \
                Daemon(Path(folder), keep_alive_s=-1, max_queue=1000) as daemon:
            install(Store(daemon.home), MODEL, cheap=True, rows=streams, context=4096, step_ms=step_ms)
            asyncio.run(_plain(daemon.base_url, _bodies(streams, 2)))
            for _ in range(rounds):
                costs["streaming"].append(measure(daemon, _streaming, _bodies(streams, tokens)))
                costs["plain"].append(measure(daemon, _plain, _bodies(streams, tokens)))
    except BenchError as error:
        out.print(f"tokens: {error}", style="bold red", markup=False)
        sys.exit(1)
    show(costs)


if __name__ == "__main__":
    app()
