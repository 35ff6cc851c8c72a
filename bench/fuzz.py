"""`python -m bench.fuzz`: thousands of requests that nobody thought of.

They are made from the OpenAPI document of an `edged serve` with models of the fake engine, some that fit it and some
that do not (tests/fuzzing.py). No answer may be a 5xx, or another than the document says. They come in rounds, each of
other requests; what daemon and workers hold is read after a third of them and at the end, and must be the same within
GROWTH. Requests are one after another: what many clients at once do is bench/soak.py's.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import cyclopts
import httpx
import psutil
from rich.console import Console
from rich.table import Table

from edged.store import Store
from tests.daemon import Daemon
from tests.fuzzing import LEFT_OUT, Fuzzer, Tally, install_models
from tests.held import Held, held

GROWTH = 0.05
ROUNDS = 6
WARM = ROUNDS // 3
MIB = 1 << 20
#: Those whose workers stay from the beginning to the end.
KEPT = ("talker", "vectors", "judge")

out = Console(highlight=False)
app = cyclopts.App(name="python -m bench.fuzz", help=__doc__, help_format="plaintext", version_flags=[])


def _load(daemon: Daemon) -> dict[str, psutil.Process]:
    """By name, the daemon and the workers of KEPT."""
    found = {"daemon": psutil.Process(daemon.pid)}
    for name in KEPT:
        before = {worker.pid for worker in daemon.workers()}
        httpx.post(f"{daemon.base_url}/edged/v1/load", json={"model": name}, timeout=30).raise_for_status()
        (worker,) = (worker for worker in daemon.workers() if worker.pid not in before)
        found[f"worker of {name}"] = worker
    return found


def _show(tally: Tally, first: dict[str, Held], last: dict[str, Held]) -> None:
    statuses = Table("operation", "statuses", box=None, header_style="bold")
    for operation, counter in tally.statuses.items():
        statuses.add_row(operation, "  ".join(f"{status}: {count}" for status, count in sorted(counter.items())))
    out.print(statuses)
    memory = Table("process", "MiB after a third", "MiB at the end", "growth", box=None, header_style="bold")
    for name, before in first.items():
        after = last[name]
        memory.add_row(name, f"{before.resident_bytes / MIB:.1f}", f"{after.resident_bytes / MIB:.1f}",
                       f"{after.resident_bytes / before.resident_bytes - 1:+.1%}")
    out.print(memory)


@app.default
def main(*, examples: int = 180, start: int = 0, limit_s: float = 280) -> None:
    """Exit code 1 when an answer was not what the document says, or memory grew.

    Parameters
    ----------
    examples
        Of each operation: so many requests that fit it, and where it takes any, so many that do not.
    start
        Of the random numbers: another one makes other requests.
    limit_s
        No round is begun that would probably end later.
    """
    began = time.monotonic()
    tally = Tally()
    first: dict[str, Held] = {}
    with tempfile.TemporaryDirectory(prefix="edged-fuzz-") as folder, \
            Daemon(Path(folder), keep_alive_s=-1) as daemon:
        install_models(Store(daemon.home))
        processes = _load(daemon)
        fuzzer = Fuzzer(daemon.base_url)
        for number in range(ROUNDS):
            spent_s = time.monotonic() - began
            if number > WARM and spent_s * (number + 1) / number > limit_s:
                out.print(f"only {number} of {ROUNDS} rounds within {limit_s:g} s; give it more with --limit-s")
                break
            for operation in fuzzer.operations:
                fuzzer.run(operation, max(1, examples // ROUNDS), tally, start=start + number)
            if number == WARM - 1:
                first = {name: held(process) for name, process in processes.items()}
        last = {name: held(process) for name, process in processes.items()}
        fuzzer.close()
        accidents = [entry for entry in daemon.log() if "exception" in entry]
    _show(tally, first, last)
    for (operation, what), how in tally.broken.items():
        out.print(f"{operation}: {what}", style="bold red", markup=False)
        out.print(how, markup=False)
    for entry in accidents:
        out.print(f"in the daemon's log: {entry}", style="bold red", markup=False)
    grown = [name for name, before in first.items()
             if last[name].resident_bytes > before.resident_bytes * (1 + GROWTH)]
    for name in grown:
        out.print(f"the {name} grew by more than {GROWTH:.0%}", style="bold red")
    timeouts = tally.count([504])
    errors = tally.count(range(500, 600)) - timeouts
    out.print(f"{tally.cases} requests of {len(tally.statuses)} operations in {time.monotonic() - began:.0f} s; "
              f"{errors} of 5xx ({timeouts} of 504, as their timeout_s asked), {len(tally.broken)} kinds of answers "
              f"against the document. Left out: {', '.join(LEFT_OUT)}.")
    if tally.broken or grown or accidents:
        sys.exit(1)


if __name__ == "__main__":
    app()
