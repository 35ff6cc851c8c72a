"""Bytes of weights, and of the keys and values of a token, by headers alone."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest

from edged.errors import CorruptFile, RefusedFile
from tests.hf_folders import put, weights
from training.weigh import weigh

pytestmark = pytest.mark.unit

CONFIG = {
    "model_type": "llama", "vocab_size": 10, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}


def test_a_hugging_face_folder_is_weighed_as_it_is_stored(tmp_path: Path) -> None:
    folder = put(tmp_path / "hf", {
        "config.json": json.dumps(CONFIG).encode(), "model.safetensors": weights(a=(8, 4), b=(3,))})
    found = weigh(folder)
    assert (found.parameters, found.weights_bytes) == (35, 140)
    # Keys and values of 3 layers, 2 heads, 2 wide, 4 bytes.
    assert found.kv_bytes_per_token == 2 * 3 * 2 * 2 * 4
    assert weigh(folder, kv_element_bytes=2).kv_bytes_per_token == 48


def test_a_gguf_is_weighed_by_its_tensors(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_block_count(3)
    writer.add_embedding_length(8)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_key_length(2)
    writer.add_value_length(2)
    writer.add_tensor("a", np.zeros((4, 32), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = weigh(tmp_path / "model.gguf")
    assert (found.parameters, found.weights_bytes, found.kv_bytes_per_token) == (128, 256, 2 * 3 * 2 * 2 * 2)


def test_an_onnx_folder_is_weighed_with_its_external_data(tmp_path: Path) -> None:
    built = {"model": {"decoder": {"filename": "model.onnx", "num_hidden_layers": 3, "num_key_value_heads": 2,
                                   "head_size": 2}}}
    folder = put(tmp_path / "onnx", {
        "genai_config.json": json.dumps(built).encode(), "config.json": json.dumps(CONFIG).encode(),
        "model.onnx": b"x" * 10, "model.onnx.data": b"x" * 1000, "tokenizer.json": b"{}"})
    found = weigh(folder)
    assert (found.parameters, found.weights_bytes, found.kv_bytes_per_token) == (None, 1010, 96)


def test_what_is_no_model_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(RefusedFile, match="is no model"):
        weigh(tmp_path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = put(tmp_path / "hf", {"config.json": b"{", "model.safetensors": weights()})
    with pytest.raises(CorruptFile, match=r"config\.json"):
        weigh(folder)
    (tmp_path / "model.gguf").write_bytes(b"no")
    with pytest.raises(CorruptFile, match=r"model\.gguf is damaged"):
        weigh(tmp_path / "model.gguf")
