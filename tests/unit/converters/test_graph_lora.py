"""A graph with adapters as inputs computes what it computed, and with one bound, what peft says it should; quantized
products too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from converters import graph_lora, lora
from converters.lora import Pair
from edged.engines.genai_config import ADAPTERS_GRAPH
from edged.errors import RefusedFile
from tests.lora_folders import lora_folder

pytestmark = pytest.mark.unit

SIZE, KV = 64, 16
STACK = "model.layers.0.self_attn"
DOWN = "model.layers.0.mlp.down_proj"
SHAPES = {f"{STACK}.q_proj": (SIZE, SIZE), f"{STACK}.k_proj": (KV, SIZE), f"{STACK}.v_proj": (KV, SIZE)}
Floats = NDArray[np.float32]


def base(folder: Path) -> Path:
    """x → qkv_proj (floats) and x → down_proj (4 bits in blocks of 32), by the builder's names."""
    folder.mkdir()
    random = np.random.default_rng(5)
    rows = SIZE + 2 * KV
    weights: dict[str, NDArray[Any]] = {
        "qkv": random.normal(size=(SIZE, rows)).astype(np.float32),
        "down.values": random.integers(0, 255, (SIZE, 2, 16)).astype(np.uint8),
        "down.scales": random.random((SIZE, 2)).astype(np.float32),
    }
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "qkv"], ["heads"], name="/model/layers.0/attn/qkv_proj/MatMul"),
         helper.make_node("MatMulNBits", ["x", "down.values", "down.scales"], ["down"], domain="com.microsoft",
                          name="/model/layers.0/mlp/down_proj/MatMul", K=SIZE, N=SIZE, bits=4, block_size=32)],
        "base", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", SIZE])],
        [helper.make_tensor_value_info("heads", TensorProto.FLOAT, ["n", rows]),
         helper.make_tensor_value_info("down", TensorProto.FLOAT, ["n", SIZE])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()])
    model = helper.make_model(graph, ir_version=10, opset_imports=[
        helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)])
    onnx.save(model, folder / "model.onnx")
    decoder = {"filename": "model.onnx", "num_hidden_layers": 1, "num_key_value_heads": 2, "head_size": 8}
    (folder / "genai_config.json").write_text(json.dumps(
        {"model": {"decoder": decoder, "vocab_size": 8, "context_length": 16}}))
    return folder


def run(graph: Path, x: Floats, adapter: Path | None = None) -> dict[str, Floats]:
    session: Any = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["x"]
    bound = {} if adapter is None else {
        name: value.numpy() for name, value in
        onnxruntime.AdapterFormat.read_adapter(str(adapter)).get_parameters().items()}
    return dict(zip(("heads", "down"), session.run(["heads", "down"], {"x": x, **bound}), strict=True))


def delta(x: Floats, pair: Pair) -> Floats:
    return (x @ pair.a.T @ pair.b.T * pair.scale).astype(np.float32)


@pytest.mark.parametrize("parts", [["q_proj"], ["k_proj"], ["q_proj", "v_proj"], ["q_proj", "k_proj", "v_proj"]])
def test_each_part_of_one_product_gets_its_own_and_others_nothing(tmp_path: Path, parts: list[str]) -> None:
    folder, adapter = base(tmp_path / "base"), tmp_path / "one.onnx_adapter"
    shapes = {f"{STACK}.{part}": SHAPES[f"{STACK}.{part}"] for part in parts} | {DOWN: (SIZE, SIZE)}
    pairs = lora.read(lora_folder(tmp_path / "lora", shapes=shapes, rank=3))
    graph_lora.write(folder, pairs, graph=folder / ADAPTERS_GRAPH, out=adapter)
    x = np.random.default_rng(1).normal(size=(5, SIZE)).astype(np.float32)
    before, after = run(folder / "model.onnx", x), run(folder / ADAPTERS_GRAPH, x, adapter)
    plain = run(folder / ADAPTERS_GRAPH, x)
    assert all(np.array_equal(plain[name], before[name]) for name in before)
    places = {"q_proj": slice(0, SIZE), "k_proj": slice(SIZE, SIZE + KV), "v_proj": slice(SIZE + KV, SIZE + 2 * KV)}
    wanted = before["heads"].copy()
    for part in parts:
        wanted[:, places[part]] += delta(x, pairs[f"{STACK}.{part}"])
    assert np.allclose(after["heads"], wanted, atol=1e-3)
    assert np.allclose(after["down"], before["down"] + delta(x, pairs[DOWN]), atol=1e-3)


def test_the_graph_is_the_same_for_every_adapter(tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    graphs = []
    for seed, module in enumerate((DOWN, f"{STACK}.q_proj")):
        pairs = lora.read(lora_folder(tmp_path / str(seed), shapes={module: (SIZE, SIZE)}, rank=seed + 2))
        graph_lora.write(folder, pairs, graph=tmp_path / f"{seed}.onnx", out=tmp_path / f"{seed}.onnx_adapter")
        graphs.append((tmp_path / f"{seed}.onnx").read_bytes())
    assert graphs[0] == graphs[1]


@pytest.mark.parametrize(("module", "shape"), [
    (DOWN, (SIZE, 32)), (f"{STACK}.k_proj", (SIZE, SIZE)), (f"{STACK}.o_proj", (SIZE, SIZE)),
    ("lm_head", (8, SIZE)), (DOWN.replace("0", "3"), (SIZE, SIZE)),
])
def test_one_of_another_model_is_refused(tmp_path: Path, module: str, shape: tuple[int, int]) -> None:
    folder = base(tmp_path / "base")
    pairs = lora.read(lora_folder(tmp_path / "lora", shapes={module: shape}))
    with pytest.raises(RefusedFile, match="trained for another model"):
        graph_lora.write(folder, pairs, graph=tmp_path / "g.onnx", out=tmp_path / "a.onnx_adapter")
