"""`python -m bench.engines_ort FOLDER`: edged's ONNX Runtime engine on one ONNX folder, against onnxruntime-genai,
Foundry Local and, given GGUF files of the same model, llama.cpp. See bench/README.md."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import psutil
from cyclopts import App, Parameter
from rich.console import Console

from bench import machine, pipes, report, servers
from bench.client import BenchError
from bench.rounds import Bench, Side
from bench.servers import BUILD, ROOT, Edged
from bench.workloads import CONTEXT_TOKENS, CONTROL_TOKENS, FULL, QUICK, ROWS, digest
from edged.engines.genai_config import POSITIONS_GRAPH

FOUNDRY_PACKAGE = "foundry-local-sdk==2.2.1"
ENGINE, DAEMON = "edged's engine", "edged"
#: What a total rate must be, in rates of those who run the same folder.
GOALS = {"streams-1": 1.05, "streams-4": 1.3, "streams-8": 1.5}

app = App(name="bench.engines_ort", help=__doc__, version_flags=[])
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else report.WIDTH)


@app.default
def main(
    folder: Path,
    *,
    gguf: Annotated[tuple[Path, ...], Parameter(consume_multiple=True)] = (),
    rounds: int | None = None,
    quick: bool = False,
    only: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    foundry: bool = True,
    daemon: bool = True,
    threads: int | None = None,
    log: bool = False,
) -> None:
    """Measure turn about, print ratios, keep everything in bench/results/.

    Parameters
    ----------
    folder
        Made by onnxruntime-genai's builder for cpu, of a model with SmolLM2's vocabulary; with edged.onnx where it
        was converted by edged.
    gguf
        The same model for llama.cpp, one file for each quantization.
    rounds
        5 by default, which gives the interval of a ratio 94 % confidence.
    quick
        Small workloads, two rounds by default: proves the harness, not the speed.
    only
        Names of workloads; all by default.
    foundry
        Without it Foundry Local is left out.
    daemon
        Without it edged takes part by its engine alone, not over HTTP.
    threads
        By default the machine's physical cores.
    log
        Append the result to bench/LOG.md.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the children are ended
    try:
        _run(folder.resolve(), gguf, rounds or (2 if quick else 5), quick=quick, only=only, foundry=foundry,
             daemon=daemon, threads=threads or psutil.cpu_count(logical=False) or 1, log=log)
    except BenchError as error:
        out.print(f"bench: {error}", style="bold red", markup=False)
        sys.exit(1)


def _run(
    folder: Path, gguf: Sequence[Path], rounds: int, *, quick: bool, only: Sequence[str], foundry: bool, daemon: bool,
    threads: int, log: bool,
) -> None:
    frozen = QUICK if quick else FULL
    workloads = [workload for workload in frozen if workload.name in only or not only]
    subjects = [_engine(ENGINE, "ort", folder, "genai_config.json", threads)]
    if daemon:
        subjects.append(_served(folder, threads))
    peers = _peers(folder, threads, foundry=foundry)
    others = [_engine(f"llama.cpp {file.stem.rpartition('.')[2]}", "llama", file.parent, file.name, threads)
              for file in map(Path.absolute, gguf)]
    bench = Bench([*subjects, *peers, *others], workloads, out.print)
    bench.run(rounds)
    goals = {side.name: GOALS for side in peers} | {side.name: {} for side in (*subjects, *others)}
    run = report.Run(
        when=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), workloads=digest(frozen), rounds=rounds,
        commit=servers.commit(), machine=machine.describe(), quick=quick, complaints=bench.complaints,
        settings={"model": described(folder), "threads": str(threads), "rows": str(ROWS)},
        sides={side.name: side.facts for side in bench.sides}, goals=goals,
    )
    for subject in reversed(subjects):
        report.show(out, seen_from(run, subject.name), bench.samples)
    path = report.save(ROOT / "bench" / "results", run, bench.samples)
    out.print(f"all samples: {path.relative_to(ROOT)}")
    if log:
        for subject in reversed(subjects):
            report.append(ROOT / "bench" / "LOG.md", seen_from(run, subject.name), bench.samples)


def seen_from(run: report.Run, subject: str) -> report.Run:
    return replace(run, sides={subject: run.sides[subject], **run.sides})


def described(folder: Path) -> str:
    """What may be published of it: its own name and the sizes of its files, not where it lies."""
    sizes = {file.name: file.stat().st_size for file in sorted(folder.glob("*.onnx*"))}
    return f"{folder.name}, " + ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sizes.items())


def variant(folder: Path, name: str, threads: int | None) -> Path:
    """The folder as other runtimes are to load it: no token of an answer ends it, so that all answers have the length
    asked for (SmolLM2's id 3 is a mark that chats do not use), and as many threads as edged, or their own choice."""
    made = BUILD / "bench-onnx" / name
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    for file in folder.iterdir():
        if file.is_file() and file.name not in ("genai_config.json", POSITIONS_GRAPH):
            # A link of the weights would be refused, by edged as well: it is a file of another place too.
            shutil.copyfile(file, made / file.name)
    config = json.loads((folder / "genai_config.json").read_text())
    config["model"]["eos_token_id"] = CONTROL_TOKENS[3]
    if threads is not None:
        config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
    (made / "genai_config.json").write_text(json.dumps(config))
    return made


def _engine(name: str, engine: str, folder: Path, file: str, threads: int) -> Side:
    config = {"engine": engine, "path": str(folder), "file": file, "rows": ROWS, "context": CONTEXT_TOKENS,
              "threads": threads}
    return _child(name, [sys.executable, "-m", "bench.peers.engine"], config)


def _child(name: str, command: Sequence[str | Path], config: dict[str, Any]) -> Side:
    log = name.replace("'", "").replace(", ", "-").replace(" ", "-")
    return Side(name, partial(pipes.start, log, command, config), pipes.ask)


def _served(folder: Path, threads: int) -> Side:
    edged = Edged(folder.name, rows=ROWS, context=CONTEXT_TOKENS, threads=threads, home="bench-onnx-home",
                  build={"version": f"onnxruntime {version('onnxruntime')}"})
    edged.take(folder)
    return Side(DAEMON, edged.start)


def _peers(folder: Path, threads: int, *, foundry: bool) -> list[Side]:
    """Each as it comes, which is one thread on two cores, and with the threads that edged has."""
    sides = []
    for suffix, count in (("", None), (f", {threads} threads", threads)):
        config = {"path": str(variant(folder, f"{folder.name}-{count or 'own'}", count))}
        sides.append(_child(f"onnxruntime-genai{suffix}", [sys.executable, "-m", "bench.peers.genai"], config))
        if foundry:
            python = servers.peer_python("foundry-venv", FOUNDRY_PACKAGE)
            script = Path(__file__).parent / "peers" / "foundry.py"
            sides.append(_child(f"Foundry Local{suffix}", [python, script], config))
    return sides


if __name__ == "__main__":
    app()
