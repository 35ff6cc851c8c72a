"""`python -m bench.adapters`: what a tick costs when its streams want different adapters, on one loaded model.

    python -m bench.adapters llama FOLDER model.gguf --rank 8
    python -m bench.adapters ort FOLDER genai_config.json --adapter one=FILE two=FILE

The engine alone, no server: 8 rows, a prompt of 128 tokens each, then ticks that decode all of them, as the scheduler
splits them: one step for each adapter. Interleaved, medians. Adapters are made of random numbers where none is given:
what one holds does not change what it costs.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from cyclopts import App, Parameter

from bench import machine
from edged.engines import load
from edged.engines.base import Generator, RowWork
from edged.types import AdapterSpec, LoadSpec

ROWS, PROMPT_TOKENS, TICKS, ROUNDS = 8, 128, 12, 5
app = App(name="adapters", help=__doc__, version_flags=[])


@app.default
def main(
    engine: Literal["llama", "ort"], folder: Path, file: str, /, *, rank: int = 8, threads: int = 2,
    adapter: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
) -> None:
    """Print the time of a tick by how its rows share adapters.

    Parameters
    ----------
    engine, folder, file
        What to load, as in edged.types.LoadSpec.
    rank
        Of the adapters that are made.
    adapter
        name=FILE of adapters in the engine's own form; llama's are made if none is given.
    """
    with tempfile.TemporaryDirectory() as made:
        named = dict(one.split("=", 1) for one in adapter)
        if not named and engine == "llama":
            named = {name: str(_random_lora(folder / file, Path(made) / f"{name}.gguf", rank)) for name in "abcd"}
        specs = tuple(AdapterSpec(name=name, digest="0" * 64, path=path) for name, path in named.items())
        loaded = load(LoadSpec(name="bench", version="1", digest="0" * 64, engine=engine, path=str(folder), file=file,
                               rows=ROWS, context=1024, threads=threads, adapters=specs), lambda fraction: None)
        print(f"{machine.describe()}")
        print(f"{engine}, {folder.name}/{file}, {ROWS} rows, {PROMPT_TOKENS} tokens each, {threads} threads")
        _measure(loaded.generator, list(named))


def _measure(generator: Generator, names: Sequence[str]) -> None:
    plans: dict[str, list[str | None]] = {"all on the base": [None] * ROWS}
    if names:
        plans["all on one adapter"] = [names[0]] * ROWS
        for count in range(2, len(names) + 2):
            kinds: list[str | None] = [None, *names][:count]
            plans[f"base and {count - 1} adapters"] = [kinds[row % count] for row in range(ROWS)]
    seen: dict[str, list[float]] = {name: [] for name in plans}
    for _ in range(ROUNDS):
        for name, of_row in plans.items():
            seen[name].append(_tick_s(generator, of_row))
    base = statistics.median(seen["all on the base"])
    for name, times in seen.items():
        took = statistics.median(times)
        print(f"{name:<24} {took * 1000:7.1f} ms a tick  {ROWS / took:7.1f} tok/s  {took / base:5.2f} x the base")
    if names:
        print(f"a change of adapter, beyond the step itself: {_switch_s(generator, names[0]) * 1000:.2f} ms")


def _tick_s(generator: Generator, of_row: Sequence[str | None]) -> float:
    """Median time of a tick that decodes every row once."""
    tokens = [100 + index % 900 for index in range(PROMPT_TOKENS)]
    for row, adapter in enumerate(of_row):
        generator.trim(row, 0)
        generator.step([RowWork(row, tokens, 1, adapter)])
    groups: dict[str | None, list[int]] = {}
    for row, adapter in enumerate(of_row):
        groups.setdefault(adapter, []).append(row)
    times = []
    for _ in range(TICKS):
        began_s = time.perf_counter()
        for adapter, rows in groups.items():
            generator.step([RowWork(row, [200], 1, adapter) for row in rows])
        times.append(time.perf_counter() - began_s)
    return statistics.median(times)


def _switch_s(generator: Generator, name: str) -> float:
    """Steps of one row that alternate, less the mean of steps that do not."""
    def step_s(adapter: str | None) -> float:
        began_s = time.perf_counter()
        generator.step([RowWork(0, [200], 1, adapter)])
        return time.perf_counter() - began_s

    same = [statistics.median(step_s(adapter) for _ in range(TICKS)) for adapter in (None, name)]
    turns = [step_s(adapter) for _ in range(TICKS) for adapter in (None, name)]
    return statistics.median(turns[0::2]) / 2 + statistics.median(turns[1::2]) / 2 - statistics.mean(same)


def _random_lora(base: Path, path: Path, rank: int) -> Path:
    """A GGUF LoRA over every linear layer of the base's blocks."""
    import gguf

    reader = gguf.GGUFReader(base)
    field = reader.fields["general.architecture"]
    writer = gguf.GGUFWriter(path, bytes(field.parts[field.data[0]]).decode())
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    numbers = np.random.default_rng(0)
    for tensor in reader.tensors:
        if tensor.name.startswith("blk.") and tensor.name.endswith(".weight") and len(tensor.shape) == 2:
            width, height = map(int, tensor.shape)
            writer.add_tensor(f"{tensor.name}.lora_a", numbers.normal(0, 0.01, (rank, width)).astype(np.float32))
            writer.add_tensor(f"{tensor.name}.lora_b", numbers.normal(0, 0.01, (height, rank)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


if __name__ == "__main__":
    sys.exit(app())
