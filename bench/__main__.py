"""`python -m bench`: every claim of speed in one run, against the best configuration found of each peer. See
bench/README.md."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import psutil
from cyclopts import App, Parameter
from rich.console import Console

from bench import machine, report, servers
from bench.client import BenchError
from bench.pair import refuse_if_busy
from bench.proof import forms, plot, record, table
from bench.proof.perform import Performance, now
from bench.proof.scene import FULL, QUICK, Scene, Sizes
from bench.proof.scenes import SCENES, digest
from bench.proof.sides import CONTEXT, MODEL, ROWS, Sides, edged_of, forget_kv
from bench.servers import ROOT

app = App(name="bench", help=__doc__, version_flags=[])
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else report.WIDTH)


@app.default
def main(
    *,
    rounds: int | None = None,
    quick: bool = False,
    only: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    into: Path | None = None,
    threads: int | None = None,
    tune: bool | None = None,
    allow_busy: bool = False,
    log: bool = False,
) -> None:
    """Measure scene by scene, print the table, keep every figure in bench/results/.

    Parameters
    ----------
    rounds
        Of every scene; by default each has its own number, from one to five.
    quick
        Small workloads, one round by default: proves the harness in some minutes, not the speed.
    only
        Names of scenes; all by default.
    into
        A results file of an earlier run, whose other scenes stay: what failed or was left out can be run again.
    threads
        For each server; by default the machine's physical cores.
    tune
        Let `edged tune` look for options of its own choice first, for a minute; by default unless quick.
    allow_busy
        Measure although others use the machine; the result says so.
    log
        Append the table to bench/LOG.md and draw bench/ratios.svg.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are ended
    try:
        refuse_if_busy(allow_busy)
        _run(_chosen(only), QUICK if quick else FULL, rounds or (1 if quick else None), quick=quick, into=into, log=log,
             threads=threads or psutil.cpu_count(logical=False) or 1, tune=not quick if tune is None else tune)
    except BenchError as error:
        out.print(f"bench: {error}", style="bold red", markup=False)
        sys.exit(1)


def _run(
    scenes: Sequence[Scene], sizes: Sizes, rounds: int | None, *, quick: bool, into: Path | None, log: bool,
    threads: int, tune: bool,
) -> None:
    store = edged_of(threads)
    say = partial(out.print, markup=False)
    made = forms.prepare(store, say)
    if into is None or not into.exists():  # else the choice stands
        made = forms.choose(store, say, 0.2 if quick else 1.0, tune=tune)
    forget_kv(store.home)
    kept = _kept(into, made, quick=quick, asked=digest(sizes), threads=threads)
    path = into or record.path_for(kept)
    try:
        Performance(kept, path, Sides(made, threads), sizes, say, rounds).run(scenes)
    finally:
        kept.save(path)
        table.show(out, kept)
        out.print(f"all samples: {path}")
    if log:
        table.append(ROOT / "bench" / "LOG.md", kept)
        plot.draw(kept, plot.SVG)


def _kept(into: Path | None, made: list[forms.Form], *, quick: bool, asked: str, threads: int) -> record.Record:
    """Raises BenchError where the scenes of `into` asked other things."""
    fresh = record.Record(
        when=now(), commit=servers.commit(), digest=asked, quick=quick, machine=machine.describe(), forms=made,
        settings={"model": MODEL, "threads": str(threads), "rows": str(ROWS), "context of a row": str(CONTEXT)})
    if into is None or not into.exists():
        return fresh
    kept = record.load(into)
    same = (kept.digest, kept.quick, kept.settings, kept.machine, kept.forms)
    if same != (asked, quick, fresh.settings, fresh.machine, made):
        raise BenchError(f"{into.name} is of other workloads, forms, settings or another machine; leave out --into")
    return kept


def _chosen(only: Sequence[str]) -> list[Scene]:
    names = [scene.name for scene in SCENES]
    if unknown := set(only) - set(names):
        raise BenchError(f"no scene {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return [scene for scene in SCENES if not only or scene.name in only]


if __name__ == "__main__":
    app()
