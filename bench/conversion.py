"""`python -m bench.conversion FOLDER`: what edged's conversions cost and lose, beside `olive` and onnxruntime-genai's
builder run by hand on the same model. See bench/README.md."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Annotated

import msgspec
import psutil
from cyclopts import App, Parameter
from rich.console import Console

from bench import machine, servers
from bench.client import BenchError
from bench.servers import BUILD, ROOT
from converters import gate, quiet
from edged.store.entries import Manifest
from edged.store.lineage import Quality, QualityLimits
from edged.types import LoadSpec

#: The last one whose builder takes its options as Olive 0.13 gives them.
OLIVE_GENAI = "onnxruntime-genai==0.14.1"
RECIPES = ("cpu-int4", "cpu-int4-plain", "cpu-int8", "gguf-q4_k_m", "gguf-q8_0")
#: `olive capture-onnx-graph` has no int8.
BY_HAND = (("genai's builder", "int4"), ("olive", "int4"), ("genai's builder", "int8"))
HEAD = ("made by", "size, MB", "of fp32", "seconds", "of them making", "CPU s", "peak, x fp32", "perplexity ratio",
        "top-1", "KL")
WORK = BUILD / "bench-conversion"
_POLL_S = 0.03
_CONTEXT = 1024
#: None of the by-hand results is refused: they are measured.
_ANY = QualityLimits(perplexity_ratio=1e9, top1_agreement=0.0, kl_divergence=1e9)

app = App(name="bench.conversion", help=__doc__, version_flags=[])
out = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Cost:
    """Of one run. making_s: the part that makes the model, without source, reference and gate; peak_bytes: resident, of
    all processes of the run at one moment, shared pages counted for each."""

    seconds: float
    making_s: float
    cpu_s: float
    peak_bytes: int


@dataclass(frozen=True)
class Made:
    costs: tuple[Cost, ...]
    size_bytes: int
    quality: Quality


@app.default
def main(
    folder: Path,
    *,
    recipes: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = RECIPES,
    rounds: int = 3,
    log: bool = False,
) -> None:
    """Run all of them turn about; times are medians.

    Parameters
    ----------
    folder
        A model in the form of transformers, in 32 bits.
    recipes
        Of edged's.
    rounds
        How often each runs.
    log
        Append the table to bench/LOG.md.
    """
    try:
        table = _measure(folder.resolve(), recipes, rounds)
    except BenchError as error:
        out.print(f"bench: {error}", style="bold red", markup=False)
        sys.exit(1)
    out.print(table, markup=False)
    if log:
        with (ROOT / "bench" / "LOG.md").open("a") as file:
            file.write(f"\n## {datetime.now(UTC):%Y-%m-%d %H:%M UTC}, commit {servers.commit()}: conversions\n\n")
            file.write(table)


def _measure(folder: Path, recipes: tuple[str, ...], rounds: int) -> str:
    shutil.rmtree(WORK, ignore_errors=True)
    fp32_bytes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    makers: dict[str, Callable[[], tuple[Cost, Path | Manifest]]] = {}
    for recipe in recipes:
        makers[f"edged, {recipe}"] = partial(edged, folder, recipe)
    for tool, precision in BY_HAND:
        makers[f"{tool}, {precision}"] = partial(olive if tool == "olive" else builder, folder, precision)
    costs: dict[str, list[Cost]] = {name: [] for name in makers}
    results: dict[str, Path | Manifest] = {}
    for turn in range(rounds):
        order = list(makers) if turn % 2 == 0 else list(reversed(makers))
        for name in order:
            cost, results[name] = makers[name]()
            costs[name].append(cost)
            out.print(f"round {turn + 1}  {name:28} {cost.seconds:6.1f} s, {cost.peak_bytes / 1e6:5.0f} MB")
    reference = WORK / "fp32"
    build("fp32", folder, reference)
    lines = [
        f"{machine.describe()['cpu']}; {folder.name}, {fp32_bytes / 1e6:.1f} MB in 32 bits; medians of {rounds}; "
        f"olive-ai {version('olive-ai')} with {OLIVE_GENAI.replace('==', ' ')}, builder of onnxruntime-genai "
        f"{version('onnxruntime-genai')}. What only edged has (source, reference, gate) is not in \"of them making\".",
        "", "| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD),
    ]
    for name, result in results.items():
        if isinstance(result, Manifest):
            assert result.quality is not None
            quality, size_bytes = result.quality, result.size
        else:
            quality = _quality(reference, result)
            size_bytes = sum(file.stat().st_size for file in result.iterdir())
        lines.append(_row(name, Made(tuple(costs[name]), size_bytes, quality), fp32_bytes))
    return "\n".join(lines) + "\n"


def _row(name: str, made: Made, fp32_bytes: int) -> str:
    seconds, making_s, cpu_s = (median(getattr(cost, name) for cost in made.costs)
                                for name in ("seconds", "making_s", "cpu_s"))
    peak_bytes = max(cost.peak_bytes for cost in made.costs)
    cells = (
        name, f"{made.size_bytes / 1e6:.1f}", f"{made.size_bytes / fp32_bytes:.1%}", f"{seconds:.1f}",
        f"{making_s:.1f}", f"{cpu_s:.1f}", f"{peak_bytes / fp32_bytes:.2f}", f"{made.quality.perplexity_ratio:.3f}",
        f"{made.quality.top1_agreement:.1%}", f"{made.quality.kl_divergence:.4f}",
    )
    return "| " + " | ".join(cells) + " |"


def edged(folder: Path, recipe: str) -> tuple[Cost, Manifest]:
    home = WORK / f"home-{recipe}"
    shutil.rmtree(home, ignore_errors=True)
    # 6: it was made, and the gate does not let it be served.
    cost = _run([sys.executable, "-m", "edged.cli.main", "convert", folder, "--name", "bench", "--recipe", recipe,
                 "--home", home], {}, allowed=(0, 6))
    [file] = (home / "manifests" / "bench").glob("*.json")
    manifest = msgspec.json.decode(file.read_bytes(), type=Manifest)
    assert manifest.conversion is not None
    making_s = sum(stage.seconds for stage in manifest.conversion.stages if stage.name in ("convert", "publish"))
    return Cost(cost.seconds, making_s, cost.cpu_s, cost.peak_bytes), manifest


def builder(folder: Path, precision: str) -> tuple[Cost, Path]:
    made = WORK / f"builder-{precision}"
    return build(precision, folder, made), made


def build(precision: str, folder: Path, made: Path) -> Cost:
    shutil.rmtree(made, ignore_errors=True)
    return _run([sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", folder, "-o", made, "-p", precision,
                 "-e", "cpu", "-c", WORK / "cache"], {})


def olive(folder: Path, precision: str) -> tuple[Cost, Path]:
    older = BUILD / "bench-olive-genai"
    if not older.exists():
        installed = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", older,
                                    OLIVE_GENAI], check=False)
        if installed.returncode != 0:
            raise BenchError(f"pip could not install {OLIVE_GENAI}")
    made = WORK / f"olive-{precision}"
    # Where it runs, it keeps what it has made, and gives it out again.
    for folder_of_last_time in (made, WORK / ".olive-cache"):
        shutil.rmtree(folder_of_last_time, ignore_errors=True)
    cost = _run([Path(sys.executable).with_name("olive"), "capture-onnx-graph", "-m", folder, "--use_model_builder",
                 "--precision", precision, "-o", made], {"PYTHONPATH": str(older)})
    return cost, made


def _run(command: list[str | Path], environment: dict[str, str], *, allowed: tuple[int, ...] = (0,)) -> Cost:
    WORK.mkdir(parents=True, exist_ok=True)
    log = WORK / "output.log"
    before, began_s, peak_bytes = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter(), 0
    with log.open("wb") as output:
        child = subprocess.Popen([str(part) for part in command], stdout=output, stderr=output, cwd=WORK,
                                 env={**os.environ, **quiet.ENVIRONMENT, **environment})
        root = psutil.Process(child.pid)
        while child.poll() is None:
            peak_bytes = max(peak_bytes, sum(_resident(root)))
            time.sleep(_POLL_S)
    seconds = time.perf_counter() - began_s
    if child.returncode not in allowed:
        raise BenchError(f"{command[0]} ended with code {child.returncode}; see {log.relative_to(ROOT)}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(seconds, seconds, cpu_s, peak_bytes)


def _resident(root: psutil.Process) -> Iterator[int]:
    for process in machine.tree(root):
        try:
            yield int(process.memory_info().rss)
        except psutil.Error:
            continue


def _quality(reference: Path, result: Path) -> Quality:
    one, other = (LoadSpec(name="bench", version="1", digest="0" * 64, engine="ort", path=str(path), file="model.onnx",
                           rows=1, context=_CONTEXT) for path in (reference, result))
    return gate.measure(one, other, _ANY, reference_words="fp32 on onnxruntime", text=None, tasks=None,
                        progress=lambda fraction, note: None)


if __name__ == "__main__":
    app()
