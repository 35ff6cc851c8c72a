"""The gate on real engines: nothing lost is nothing lost, and weights damaged on purpose are caught."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader

from converters.gate import measure
from edged.store.lineage import Quality, QualityLimits
from edged.types import LoadSpec

pytestmark = pytest.mark.real

#: Those of a good 8-bit recipe: what is caught here would be caught nowhere else.
LIMITS = QualityLimits(perplexity_ratio=1.02, top1_agreement=0.97, kl_divergence=0.02)


def gate(reference: LoadSpec, result: LoadSpec, *, positions: int = 400, tasks: Path | None = None) -> Quality:
    told: list[float] = []
    quality = measure(reference, result, LIMITS, reference_words="the model itself", text=None, tasks=tasks,
                      progress=lambda part, note: told.append(part), positions=positions)
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)
    return quality


def exactly_equal(quality: Quality) -> bool:
    return (quality.kl_divergence, quality.top1_agreement, quality.perplexity_ratio) == (0.0, 1.0, 1.0)


@pytest.fixture
def copied(smollm2: LoadSpec, tmp_path: Path) -> LoadSpec:
    shutil.copy(Path(smollm2.path) / smollm2.file, tmp_path / smollm2.file)
    return msgspec.structs.replace(smollm2, path=str(tmp_path), context=1024)


def scaled(spec: LoadSpec, layers: Iterable[int], strength: float) -> LoadSpec:
    """The scale of every block of one matrix in some layers is off by a random factor. Q4_1 is blocks of 32 weights in
    20 bytes: scale and minimum in fp16, then 16 bytes of nibbles (ggml, block_q4_1)."""
    noise = np.random.default_rng(3)
    reader = GGUFReader(Path(spec.path) / spec.file, "r+")
    damaged = 0
    for tensor in reader.tensors:
        if tensor.name in {f"blk.{layer}.ffn_down.weight" for layer in layers}:
            assert tensor.tensor_type == GGMLQuantizationType.Q4_1
            scales = tensor.data.reshape(-1, 20)[:, :2].view(np.float16)
            scales *= (1 + noise.normal(0, strength, scales.shape)).astype(np.float16)
            damaged += 1
    assert damaged == len(list(layers))
    reader.data.flush()
    return spec


def test_a_gguf_against_its_copy_loses_nothing_and_answers_the_same_tasks(
    smollm2: LoadSpec, copied: LoadSpec, tmp_path: Path
) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text("\n".join(map(json.dumps, [
        {"messages": [{"role": "user", "content": "Name the capital of France."}], "answer": "Paris"},
        {"prompt": "The opposite of hot is", "answer": " cold", "choices": [" cold", " green", " seven"]},
        {"prompt": "One, two, three,", "answer": "zebra", "match": "exact"},
    ])))
    quality = gate(msgspec.structs.replace(smollm2, context=1024), copied, tasks=tasks)
    assert exactly_equal(quality)
    assert quality.passed
    assert quality.tokens == 400
    assert (quality.tasks, quality.task_accuracy, quality.reference_task_accuracy) == (3, 2 / 3, 2 / 3)


def test_a_gguf_with_damaged_blocks_is_caught(smollm2: LoadSpec, copied: LoadSpec) -> None:
    """In three layers of thirty: it still talks."""
    quality = gate(msgspec.structs.replace(smollm2, context=1024), scaled(copied, (4, 12, 20), 0.3))
    assert not quality.passed
    assert any(word.startswith("perplexity ratio ") for word in quality.lacking)
    assert quality.perplexity_ratio < 3


def test_fp32_against_itself_on_onnxruntime_loses_nothing(tiny_onnx: LoadSpec) -> None:
    assert exactly_equal(gate(tiny_onnx, tiny_onnx))


def test_onnx_weights_damaged_a_little_are_caught(tiny_onnx: LoadSpec, tmp_path: Path) -> None:
    """Noise of a tenth of each weight, which an eye on the text of a random model would never see."""
    folder = Path(shutil.copytree(tiny_onnx.path, tmp_path / "damaged"))
    data = np.memmap(folder / "model.onnx.data", np.float32, "r+")
    data *= 1 + np.random.default_rng(3).normal(0, 0.1, data.shape).astype(np.float32)
    data.flush()
    quality = gate(tiny_onnx, msgspec.structs.replace(tiny_onnx, path=str(folder)))
    assert not quality.passed
    assert any(word.startswith("top-1 agreement ") for word in quality.lacking)


def test_the_same_graph_under_another_engine_loses_nothing_but_rounding(tiny_onnx: LoadSpec) -> None:
    quality = gate(tiny_onnx, msgspec.structs.replace(tiny_onnx, engine="genai"))
    assert quality.kl_divergence < 1e-6
    assert quality.top1_agreement > 0.99
    assert quality.perplexity_ratio == pytest.approx(1.0, abs=1e-4)
    assert quality.passed
