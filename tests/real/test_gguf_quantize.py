"""GGUF in fewer bits by llama.cpp, with and without an importance matrix."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from converters import calibration, gguf_imatrix, llama_process
from converters.gguf import convert, unquantized
from converters.llama_child import Quantize
from edged.engines import load
from edged.engines.base import RowWork
from edged.errors import ConversionFailed
from tests.real.conftest import spec
from tests.real.tiny_families import FAMILIES, make

pytestmark = pytest.mark.real

@dataclass
class Recipe:
    precision: str
    imatrix: bool = False
    name: str = "mine"


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model in which, as in a trained one, few of the inputs of a matrix carry most of it."""
    folder = make(tmp_path_factory.mktemp("uneven") / "hf", FAMILIES["llama"]())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.copy_(torch.exp(torch.randn_like(parameter)) / 2)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plain(uneven: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("plain")
    return unquantized(uneven, work / "out", work=work, progress=lambda done, note: None)


@pytest.fixture
def converted(uneven: Path, tmp_path: Path) -> Callable[[Recipe], tuple[Path, list[str]]]:
    """Returns the file and the notes."""
    text = tmp_path / "text.txt"
    text.write_text("The license of a work is a text that says who may use it.\n" * 100)

    def run(recipe: Recipe) -> tuple[Path, list[str]]:
        work, out = tmp_path / "work", tmp_path / f"{recipe.precision} {recipe.imatrix}"
        work.mkdir(exist_ok=True)
        notes: list[str] = []
        seen = [0.0]

        def progress(done: float, note: str | None) -> None:
            seen.append(done)
            if note:
                notes.append(note)

        convert(uneven, recipe, out, calibration=text, work=work, progress=progress)
        assert seen == sorted(seen)
        assert seen[-1] == pytest.approx(1.0)
        assert [path.name for path in out.iterdir()] == ["model.gguf"]
        return out / "model.gguf", notes

    return run


def types(file: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}


def weights(file: Path) -> dict[str, NDArray[np.float64]]:
    """All matrices but the embeddings, in numbers again."""
    return {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
            for tensor in gguf.GGUFReader(file).tensors
            if len(tensor.shape) == 2 and tensor.name != "token_embd.weight"}


@pytest.mark.parametrize(("precision", "stored", "error"), [
    ("Q4_K_M", "Q4_K", 1e-2), ("Q5_K_M", "Q5_K", 3e-3), ("Q6_K", "Q6_K", 1e-3), ("Q8_0", "Q8_0", 1e-4),
    ("Q4_0", "Q4_0", 2e-2), ("F16", "F16", 1e-6), ("BF16", "BF16", 1e-5),
])
def test_each_precision_is_what_it_says_and_serves(
    precision: str, stored: str, error: float, converted: Callable[[Recipe], tuple[Path, list[str]]], plain: Path,
) -> None:
    file, notes = converted(Recipe(precision))
    assert not notes
    assert types(file)["blk.1.ffn_gate.weight"] == stored
    assert types(file)["blk.1.attn_norm.weight"] == "F32"
    assert file.stat().st_size < plain.stat().st_size
    before, after = weights(plain), weights(file)
    for name in before:
        assert np.square(before[name] - after[name]).mean() < error * np.square(before[name]).mean(), name
    generator = load(spec("llama", file.parent, file.name, context=256, rows=1), lambda fraction: None).generator
    assert np.isfinite(generator.step([RowWork(0, [3, 77, 200], 3)])[0]).all()
    generator.close()


def test_an_importance_matrix_keeps_what_matrices_give_closer_in_the_same_size(
    converted: Callable[[Recipe], tuple[Path, list[str]]], uneven: Path, plain: Path, tmp_path: Path,
) -> None:
    """The expected square of the error of a matrix's outputs is that of its weights, weighed by importance."""
    without, _ = converted(Recipe("Q4_K_M"))
    weighed, _ = converted(Recipe("Q4_K_M", imatrix=True))
    assert types(weighed) == types(without)
    text = calibration.read(tmp_path / "text.txt", "calibrate")
    gguf_imatrix.measure(uneven, text, tmp_path / "importance", progress=lambda done, note: None)
    importance = load_file(tmp_path / "importance")
    before = weights(plain)
    errors = [{name: float((np.square(before[name] - after[name]) * importance[name]).sum()) for name in before}
              for after in (weights(without), weights(weighed))]
    assert all(errors[1][name] < errors[0][name] for name in before), errors
    assert sum(errors[1].values()) < 0.8 * sum(errors[0].values())


def test_importance_is_the_mean_square_of_each_input_of_each_matrix(
    uneven: Path, plain: Path, tmp_path: Path,
) -> None:
    text = calibration.Text(tmp_path, "mine", (calibration.Passage(1, "The license of a work is a text. " * 40),))
    gguf_imatrix.measure(uneven, text, tmp_path / "importance", progress=lambda done, note: None)
    found = load_file(tmp_path / "importance")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(plain).tensors}
    matrices = {name for name, tensor in tensors.items() if len(tensor.shape) == 2}
    assert set(found) == matrices - {"token_embd.weight"}
    assert all(len(found[name]) == tensors[name].shape[0] for name in found)
    chunks = list(gguf_imatrix._chunks(uneven, text))
    model = AutoModelForCausalLM.from_pretrained(uneven, dtype=torch.float32)
    with torch.inference_mode():
        layer = model.model.layers[0]
        inputs = torch.cat([layer.input_layernorm(model.model.embed_tokens(torch.tensor(chunk))) for chunk in chunks])
    np.testing.assert_allclose(found["blk.0.attn_q.weight"], inputs.square().mean(0).numpy(), rtol=1e-4)


def test_what_no_type_of_256_values_can_hold_is_said(tmp_path: Path) -> None:
    config = FAMILIES["llama"]()
    config.hidden_size, config.head_dim = 288, 72
    make(tmp_path / "hf", config)
    notes: list[str] = []
    convert(tmp_path / "hf", Recipe("Q4_K_M"), tmp_path / "out", calibration=None, work=tmp_path / "work",
            progress=lambda done, note: notes.append(note) if note else None)
    assert any("Q5_0 instead of Q4_K: rows of 288 are no multiple of 256" in note for note in notes)


def test_a_death_of_llama_cpp_is_an_error_with_its_last_words_and_not_ours(tmp_path: Path) -> None:
    def kill(line: str) -> None:
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                if "converters.llama_child" in child.cmdline():
                    child.send_signal(signal.SIGSEGV)

    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    task = Quantize(file=str(broken), out=str(tmp_path / "out"), file_type=15, threads=1)
    with pytest.raises(ConversionFailed, match=r"died of SIGSEGV while quantizing"):
        llama_process.run(task, "quantizing", kill)


def test_llama_cpp_ends_with_the_job_that_started_it(tmp_path: Path) -> None:
    """A job may be killed while llama.cpp works for minutes."""
    job = subprocess.Popen(
        [sys.executable, "-c",
         "import subprocess, sys, time\n"
         "child = subprocess.Popen([sys.executable, '-m', 'converters.llama_child'], stdin=subprocess.PIPE)\n"
         "child.stdin.write(b'{\"type\":\"quantize\",\"file\":\"/dev/stdin\",\"out\":\"/dev/null\",\"file_type\":15,"
         "\"threads\":1}\\n')\nchild.stdin.flush()\nprint(child.pid, flush=True)\ntime.sleep(60)"],
        stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    child = psutil.Process(int(job.stdout.readline()))
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    job.stdout.close()
    _, alive = psutil.wait_procs([child], timeout=20)
    assert not alive
