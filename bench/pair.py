"""`python -m bench.pair`: edged against llama.cpp's own server, one file, on this machine, now. See bench/README.md."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import psutil
from cyclopts import App, Parameter
from rich.console import Console

from bench import machine, report, servers
from bench.client import BenchError
from bench.rounds import Bench, Side
from bench.servers import ROOT, Edged, Launch
from bench.workloads import CONTEXT_TOKENS, FULL, QUICK, ROWS, Workload, digest

#: More than this of all cores busy with other things, and figures are worth nothing.
BUSY_CORES = 0.2
PEERS = {"default": "llama-server", "tuned": "llama-server, tuned"}
STARTUP = "start"

app = App(name="bench.pair", help=__doc__, version_flags=[])
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else report.WIDTH)


@app.default
def main(
    *,
    rounds: int | None = None,
    quick: bool = False,
    only: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    peers: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ("default", "tuned"),
    threads: int | None = None,
    model: str = "smollm2-135m",
    edged: str | None = None,
    peer: str | None = None,
    gguf: Path | None = None,
    same: bool = False,
    allow_busy: bool = False,
    log: bool = False,
) -> None:
    """Measure, print the ratios edged ÷ peer, keep everything in bench/results/.

    Parameters
    ----------
    rounds
        Pairs of measurements, 5 by default, which gives the interval of a ratio 94 % confidence.
    quick
        Small workloads, two rounds by default: proves the harness in a minute, not the speed.
    only
        Names of workloads (decode, prefill, first-token, streams-1 …) and `start`; all by default.
    peers
        Configurations of llama-server: default, tuned.
    threads
        For each server; by default the machine's physical cores.
    model
        Name in edged's catalog of a model with a GGUF that the peer can load.
    edged
        Address of an edged that runs already; it must have the same rows, context and threads.
    peer
        Address of a llama-server that runs already.
    gguf
        A file for the peer instead of the one in edged's store.
    same
        llama-server against itself: the ratios must be 1, and their intervals are what noise can do.
    allow_busy
        Measure although others use the machine; the report says so.
    log
        Append the result to bench/LOG.md.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are ended
    try:
        _run(rounds=rounds or (2 if quick else 5), quick=quick, only=only, peers=peers, model=model, edged_url=edged,
             peer_url=peer, gguf=gguf, same=same, allow_busy=allow_busy, log=log,
             threads=threads or psutil.cpu_count(logical=False) or 1)
    except BenchError as error:
        out.print(f"bench: {error}", style="bold red", markup=False)
        sys.exit(1)


def _run(
    *, rounds: int, quick: bool, only: Sequence[str], peers: Sequence[str], model: str, edged_url: str | None,
    peer_url: str | None, gguf: Path | None, same: bool, allow_busy: bool, log: bool, threads: int,
) -> None:
    frozen = QUICK if quick else FULL
    workloads = _chosen(frozen, only)
    refuse_if_busy(allow_busy)
    ours = None if same or edged_url else Edged(model, rows=ROWS, context=CONTEXT_TOKENS, threads=threads)
    if gguf is None and not peer_url:
        gguf = (ours or Edged(model, rows=ROWS, context=CONTEXT_TOKENS, threads=threads)).gguf()
    sides = _sides(ours=ours, model=model, peers=peers, edged_url=edged_url, peer_url=peer_url, gguf=gguf, same=same,
                   threads=threads)

    bench = Bench(sides, workloads, out.print)
    if workloads:
        bench.run(rounds)
    if (not only or STARTUP in only) and not (edged_url or peer_url):
        bench.starts(rounds, servers.start_bare if ours else None, ours.start if ours else None)

    run = report.Run(
        when=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), workloads=digest(frozen), rounds=rounds,
        commit=servers.commit(), machine=machine.describe(), quick=quick, complaints=bench.complaints,
        settings={"model": f"{model}, {gguf.name if gguf else 'of the given servers'}", "threads": str(threads),
                  "rows": str(ROWS), "context of a row": str(CONTEXT_TOKENS)},
        sides={side.name: side.facts for side in sides},
    )
    report.show(out, run, bench.samples)
    path = report.save(ROOT / "bench" / "results", run, bench.samples)
    out.print(f"all samples: {path.relative_to(ROOT)}")
    if log:
        report.append(ROOT / "bench" / "LOG.md", run, bench.samples)


def _chosen(frozen: Sequence[Workload], only: Sequence[str]) -> list[Workload]:
    names = [workload.name for workload in frozen]
    unknown = set(only) - {*names, STARTUP}
    if unknown:
        raise BenchError(f"no workload {', '.join(sorted(unknown))}; there are {', '.join([*names, STARTUP])}")
    return [workload for workload in frozen if not only or workload.name in only]


def refuse_if_busy(allow: bool) -> None:
    busy = machine.busiest()
    cores = sum(used for used, _ in busy)
    if cores > BUSY_CORES:
        who = ", ".join(f"{name} {used:.2f}" for used, name in busy[:5])
        if not allow:
            raise BenchError(f"others use {cores:.2f} cores ({who}): wait, end them, or say --allow-busy")
        out.print(f"note: others use {cores:.2f} cores ({who})", style="bold")


def _sides(
    *, ours: Edged | None, model: str, peers: Sequence[str], edged_url: str | None, peer_url: str | None,
    gguf: Path | None, same: bool, threads: int,
) -> list[Side]:
    def llama_server(name: str, kind: str) -> Side:
        if kind not in PEERS:
            raise BenchError(f"no peer configuration {kind}; there are {', '.join(PEERS)}")
        if peer_url:
            return Side(name, lambda: servers.attach(peer_url, model))
        assert gguf is not None
        return Side(name, lambda: servers.start_peer(
            name.replace(", ", "-").replace(" ", "-"), gguf,
            rows=ROWS, context=CONTEXT_TOKENS, threads=threads, options=kind,
        ))

    if same:
        return [llama_server(f"{PEERS[peers[0]]} {letter}", peers[0]) for letter in "AB"]
    launch: Launch
    if edged_url:
        url = edged_url

        def launch() -> servers.Running:
            return servers.attach(url, model)
    else:
        assert ours is not None
        launch = ours.start
    given = peers[:1] if peer_url else peers
    return [Side("edged", launch), *(llama_server(PEERS.get(kind, kind), kind) for kind in given)]


if __name__ == "__main__":
    app()
