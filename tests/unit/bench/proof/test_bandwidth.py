from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.proof.bandwidth import measure
from bench.proof.weights import bytes_of_token

pytestmark = pytest.mark.unit


def test_the_bandwidth_is_the_most_that_any_way_of_reading_reached() -> None:
    found = measure(2, size_bytes=1 << 16)
    assert found["read"] == max(found[way] for way in ("memchr", "sum", "product")) > 0
    assert found["copy"] > 0


@pytest.mark.parametrize("tied", [True, False])
def test_a_table_of_embeddings_counts_only_where_it_is_the_output_too(tmp_path: Path, tied: bool) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.zeros((32, 8), np.float32))
    writer.add_tensor("blk.0.ffn_up.weight", np.zeros((4, 8), np.float32))
    if not tied:
        writer.add_tensor("output.weight", np.zeros((32, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert bytes_of_token(tmp_path / "model.gguf") == (32 * 8 + 4 * 8) * 4


def test_of_a_graph_what_is_only_gathered_from_does_not_count(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    values = {name: onnx.numpy_helper.from_array(np.zeros((16, 8), np.float32), name) for name in ("table", "matrix")}
    nodes = [onnx.helper.make_node("Gather", ["table", "ids"], ["rows"]),
             onnx.helper.make_node("MatMul", ["rows", "matrix"], ["out"])]
    graph = onnx.helper.make_graph(nodes, "g", [], [], initializer=list(values.values()))
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    assert bytes_of_token(tmp_path / "model.onnx") == values["matrix"].ByteSize()
