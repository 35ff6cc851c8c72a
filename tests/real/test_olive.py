"""Hugging Face folders of every family that the builder takes, converted by recipes, against torch's own logits; and
what the conversion leaves behind, says and refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from converters import olive
from converters.recipe import Recipe, load_recipe
from edged.engines import load
from edged.engines.base import RowWork
from edged.errors import InvalidRequest
from tests.real.conftest import spec
from tests.real.tiny_families import FAMILIES, make
from tests.real.tiny_model import make_hf

pytestmark = pytest.mark.real

TOKENS = [(index * 37 + 11) % 500 + 5 for index in range(48)]
NAMES = [
    "llama", "llama with biases", "mistral", "qwen 2", "qwen 3", "phi 3", "phi 3, long", "gemma", "gemma 2", "gemma 3"]
#: Mean of KL(torch ‖ ours) over the tokens, about three times what was seen.
WORST = {"cpu-fp32": 1e-9, "cpu-int8": 0.005, "cpu-int4": 0.02, "cpu-int4-plain": 0.5}


def convert(hf: Path, recipe: Recipe, out: Path, text: Path | None = None) -> list[tuple[float, str | None]]:
    told: list[tuple[float, str | None]] = []
    olive.convert(hf, recipe, out, calibration=text, work=out.with_name(f"{out.name}-work"),
                  progress=lambda fraction, words: told.append((fraction, words)))
    return told


def ours(folder: Path) -> NDArray[np.float64]:
    """Logarithms of probabilities [tokens, vocabulary], by the serving engine."""
    generator = load(spec("ort", folder, "model.onnx", context=128, rows=1), lambda _: None).generator
    logits = np.array(generator.step([RowWork(0, TOKENS, len(TOKENS))])[0])
    generator.close()
    return log_softmax(logits)


def theirs(hf: Path) -> NDArray[np.float64]:
    model = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return log_softmax(model(torch.tensor([TOKENS])).logits[0].numpy())


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    shifted: NDArray[np.float64] = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    return shifted


def divergence(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float((np.exp(one) * (one - other)).sum(-1).mean())


@pytest.mark.parametrize("family", NAMES)
def test_a_family_is_near_torch_in_each_precision_and_smaller_in_each(family: str, tmp_path: Path) -> None:
    hf = make(tmp_path / "hf", FAMILIES[family]())
    expected = theirs(hf)
    losses, sizes = {}, {}
    for name in WORST:
        out = tmp_path / name
        convert(hf, load_recipe(name), out)
        losses[name] = divergence(expected, ours(out))
        sizes[name] = (out / "model.onnx.data").stat().st_size
        shutil.rmtree(out)
    print(family, {name: f"{loss:.2g}" for name, loss in losses.items()}, sizes)
    assert all(losses[name] <= worst for name, worst in WORST.items()), losses
    assert losses["cpu-fp32"] < losses["cpu-int8"] < losses["cpu-int4"] < losses["cpu-int4-plain"]
    assert sizes["cpu-int8"] < sizes["cpu-fp32"] * 0.36
    assert sizes["cpu-int4"] < sizes["cpu-int8"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_hf(tmp_path_factory.mktemp("tiny") / "hf")


@pytest.mark.parametrize("family", ["phi 3, long", "qwen 2", "gemma 3"])
def test_smoothing_changes_nothing_of_what_is_computed_in_32_bits(family: str, tmp_path: Path) -> None:
    hf = make(tmp_path / "hf", FAMILIES[family]())
    file = tmp_path / "kept.toml"
    file.write_text('base = "cpu-int8"\n[[weights]]\nbits = 32\n')
    convert(hf, load_recipe(str(file)), tmp_path / "out")
    assert divergence(theirs(hf), ours(tmp_path / "out")) < 1e-6


def test_tied_weights_are_stored_once_and_scales_in_16_bits(tiny: Path, tmp_path: Path) -> None:
    convert(tiny, load_recipe("cpu-int8"), tmp_path / "out")
    graph = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    [head] = [node for node in graph.node if node.name == "/lm_head/MatMul"]
    [table] = [node for node in graph.node if node.op_type == "GatherBlockQuantized"]
    [reshape] = [node for node in graph.node if table.input[0] in node.output]
    assert (reshape.input[0], table.input[2]) == (head.input[1], head.input[2])
    assert not [name for name, kind in kinds.items() if kind == onnx.TensorProto.FLOAT and "MatMul" in name]
    assert {kind for name, kind in kinds.items() if name.endswith(".scales")} == {onnx.TensorProto.FLOAT16}


def test_gptq_calibrates_on_a_users_text_and_on_the_one_that_ships(tiny: Path, tmp_path: Path) -> None:
    text = tmp_path / "mine.txt"
    text.write_text("The licence says what may be done with a work, and by whom. " * 40)
    recipe = load_recipe("cpu-int4-gptq")
    convert(tiny, recipe, tmp_path / "mine", text)
    convert(tiny, recipe, tmp_path / "shipped")
    expected = theirs(tiny)
    mine, shipped = ours(tmp_path / "mine"), ours(tmp_path / "shipped")
    assert divergence(mine, shipped) > 0
    assert max(divergence(expected, mine), divergence(expected, shipped)) < 1


def test_a_conversion_says_what_it_does_and_leaves_the_complete_folder_alone(tiny: Path, tmp_path: Path) -> None:
    told = convert(tiny, load_recipe("cpu-int4"), tmp_path / "out")
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    words = [words for _, words in told if words]
    assert any(said.startswith("Reading layer 1") for said in words)
    assert any(said.startswith("Quantizing /model/layers.1") for said in words)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "genai_config.json", "model.onnx", "model.onnx.data", "edged.onnx", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja"}
    assert {file.name for file in tmp_path.iterdir()} == {"out"}


def test_nothing_is_printed_and_nothing_warned_of(
    tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    convert(tiny, load_recipe("cpu-int8"), tmp_path / "out")
    assert capfd.readouterr().out == ""


def test_a_model_that_the_builder_does_not_know_is_refused_by_its_name_and_leaves_nothing(
    tiny: Path, tmp_path: Path
) -> None:
    hf = shutil.copytree(tiny, tmp_path / "hf")
    config = json.loads((hf / "config.json").read_text())
    (hf / "config.json").write_text(json.dumps({**config, "architectures": ["SomethingForCausalLM"]}))
    with pytest.raises(olive.ConversionFailed, match="not currently supported"):
        convert(hf, load_recipe("cpu-fp32"), tmp_path / "out")
    assert {file.name for file in tmp_path.iterdir()} == {"hf"}


def test_settings_that_a_pass_does_not_have_are_refused(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('base = "cpu-int4-gptq"\n[[passes]]\ntype = "Gptq"\nbits = 5\n')
    with pytest.raises(olive.ConversionFailed, match="Gptq"):
        convert(tiny, load_recipe(str(file)), tmp_path / "out")
    file.write_text('base = "cpu-int4-gptq"\n[[passes]]\ntype = "Gptk"\n')
    with pytest.raises(olive.ConversionFailed, match="Gptk"):
        convert(tiny, load_recipe(str(file)), tmp_path / "out")


@pytest.mark.parametrize("name", ["cuda-int4", "cuda-fp16", "directml-int4", "webgpu-int4", "tensorrt-rtx-int4"])
def test_graphs_for_devices_that_are_not_here_are_built_all_the_same(name: str, tiny: Path, tmp_path: Path) -> None:
    convert(tiny, load_recipe(name), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "genai_config.json").read_text())
    [options] = config["model"]["decoder"]["session_options"]["provider_options"]
    assert list(options) == [{"cuda": "cuda", "directml": "dml", "webgpu": "webgpu", "tensorrt-rtx": "NvTensorRtRtx"}[
        name.rpartition("-")[0]]]
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    kinds = {one.type.tensor_type.elem_type for one in graph.input if "past" in one.name}
    assert kinds == {onnx.TensorProto.FLOAT16}


@pytest.mark.parametrize("name", ["cpu-fp16", "qnn-int4", "openvino-int4"])
def test_what_cannot_be_built_here_is_refused_with_the_reason(name: str, tiny: Path, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    with pytest.raises(InvalidRequest, match=name) as caught:
        convert(tiny, recipe, tmp_path / "out")
    assert recipe.refused
    assert recipe.refused in str(caught.value)
