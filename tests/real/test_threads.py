"""Threads are a matter of speed only: in 32 bits a text is the same under any number of them, however they change."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import pytest
from msgspec.structs import replace

from converters.gguf import unquantized
from edged.engines import load
from edged.engines.base import RowWork, Threads
from edged.errors import LoadFailed
from edged.types import LoadSpec
from tests.real.conftest import spec

pytestmark = pytest.mark.real

EXACT = {"key_type": "f32", "value_type": "f32", "flash_attention": False}
PROMPT = [50 + index * 37 % 400 for index in range(60)]


@pytest.fixture(scope="module")
def gguf(tiny_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadSpec:
    folder = tmp_path_factory.mktemp("gguf")
    (folder / "work").mkdir()
    unquantized(tiny_hf, folder / "gguf", work=folder / "work", progress=lambda done, note: None)
    [file] = folder.glob("gguf/*.gguf")
    return replace(spec("llama", file.parent, file.name, context=256, rows=6), options=EXACT)


def written(spec: LoadSpec, threads: Callable[[], Threads] | None = None) -> list[list[int]]:
    """Greedy texts of three rows, whose threads change before each step."""
    generator = load(spec, lambda fraction: None).generator
    rows: list[list[int]] = []
    for row in range(3):
        if threads is not None:
            generator.set_threads(threads())
        [logits] = generator.step([RowWork(row, PROMPT[row:], 1)])
        rows.append([int(logits[-1].argmax())])
    for _ in range(40):
        if threads is not None:
            generator.set_threads(threads())
        results = generator.step([RowWork(row, [tokens[-1]], 1) for row, tokens in enumerate(rows)])
        for tokens, logits in zip(rows, results, strict=True):
            tokens.append(int(logits[-1].argmax()))
    generator.close()
    return rows


def test_llama_writes_the_same_under_any_threads(gguf: LoadSpec) -> None:
    two = written(gguf)
    assert len({tuple(row) for row in two}) > 1
    for count in (1, 3):
        assert written(replace(gguf, threads=count)) == two
    assert written(replace(gguf, options=EXACT | {"batch_threads": 1})) == two
    changing = cycle([Threads(1, 2), Threads(2, 1), Threads(3, 3), Threads(1, 1)])
    assert written(gguf, lambda: next(changing)) == two


def test_onnx_runtime_writes_the_same_under_any_threads_and_spinning(tiny_onnx: LoadSpec) -> None:
    two = written(tiny_onnx)
    assert written(replace(tiny_onnx, threads=1)) == two
    assert written(replace(tiny_onnx, options={"spin_us": 0})) == two


@pytest.mark.parametrize(("engine", "options"), [("ort", {"spin_us": -1}), ("ort", {"threads": 2}),
                                                 ("llama", {"batch_threads": 0})])
def test_options_that_make_no_sense_are_refused_by_name(
    gguf: LoadSpec, tiny_onnx: LoadSpec, engine: str, options: dict[str, int]
) -> None:
    with pytest.raises(LoadFailed, match=next(iter(options))):
        load(replace(tiny_onnx if engine == "ort" else gguf, options=options), lambda fraction: None)
