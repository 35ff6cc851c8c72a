"""ONNX Runtime at fp32 is exact: token for token what transformers gives, alone and in any batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from edged.engines import load
from edged.engines.base import Generator, RowWork
from edged.errors import InsufficientMemory, LoadFailed
from edged.types import LoadSpec
from tests.real.conftest import spec
from tests.real.tiny_model import make_onnx

pytestmark = pytest.mark.real


@pytest.fixture
def engine(tiny_onnx: LoadSpec) -> Iterator[Generator]:
    generator = load(tiny_onnx, lambda fraction: None).generator
    yield generator
    generator.close()


def greedy_of_transformers(folder: Path, prompt: list[int], count: int) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt):]


def prompts() -> list[list[int]]:
    return [[(index * 31 + salt * 57) % 500 + 5 for index in range(8 + 11 * salt)] for salt in range(5)]


def test_greedy_text_is_that_of_transformers_alone_and_in_a_ragged_batch(engine: Generator, tiny_hf: Path) -> None:
    expected = [greedy_of_transformers(tiny_hf, prompt, 24) for prompt in prompts()]
    answers: list[list[int]] = []
    for row, prompt in enumerate(prompts()):
        answers.append([int(engine.step([RowWork(row, prompt, 1)])[0][-1].argmax())])
    for _ in range(23):
        work = [RowWork(row, answer[-1:], 1) for row, answer in enumerate(answers)]
        for answer, logits in zip(answers, engine.step(work), strict=True):
            answer.append(int(logits[-1].argmax()))
    assert answers == expected


def test_logprobs_agree_with_transformers(engine: Generator, tiny_hf: Path) -> None:
    prompt = prompts()[3]
    [logits] = engine.step([RowWork(0, prompt, len(prompt))])
    model = AutoModelForCausalLM.from_pretrained(tiny_hf)
    with torch.no_grad():
        reference = torch.log_softmax(model(torch.tensor([prompt])).logits[0], -1).numpy()
    ours = torch.log_softmax(torch.from_numpy(np.ascontiguousarray(logits)), -1).numpy()
    assert np.abs(ours - reference).max() < 1e-3


def test_a_graph_without_all_logits_says_so_and_still_decodes(tiny_hf: Path, tiny_onnx: LoadSpec) -> None:
    folder = make_onnx(tiny_hf, tiny_hf.parent / "pruned", prune_lm_head="true")
    pruned = load(spec("ort", folder, "genai_config.json", context=256, rows=2), lambda fraction: None).generator
    whole = load(tiny_onnx, lambda fraction: None).generator
    assert not pruned.caps.all_logits
    assert whole.caps.all_logits
    prompt = prompts()[2]
    one, other = (generator.step([RowWork(1, prompt, 1)])[0][-1] for generator in (pruned, whole))
    assert np.abs(one - other).max() < 1e-4


def test_a_broken_graph_is_refused_by_name(tmp_path: Path, tiny_onnx: LoadSpec) -> None:
    for file in Path(tiny_onnx.path).iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.onnx").write_bytes((tmp_path / "model.onnx").read_bytes()[:2000])
    with pytest.raises(LoadFailed, match=r"model\.onnx"):
        load(spec("ort", tmp_path, "genai_config.json", context=256, rows=2), lambda fraction: None)


def test_a_context_beyond_the_memory_is_refused_with_the_need(tiny_onnx: LoadSpec) -> None:
    import msgspec

    small = msgspec.structs.replace(tiny_onnx, memory_bytes=300_000)
    with pytest.raises(InsufficientMemory, match="lower `context`"):
        load(small, lambda fraction: None)
