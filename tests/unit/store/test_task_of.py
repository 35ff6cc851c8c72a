from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from edged.errors import RefusedFile
from edged.store.select import choose, entry_of
from edged.store.task_of import task_of

pytestmark = pytest.mark.unit

ENCODER = [
    "README.md", "config.json", "tokenizer.json", "tokenizer_config.json", "modules.json", "1_Pooling/config.json",
    "model.safetensors", "onnx/model.onnx", "onnx/model.onnx_data", "onnx/model_O4.onnx",
    "onnx/model_qint8_avx512.onnx", "onnx/model_fp16.onnx", "openvino/openvino_model.xml", "LICENSE",
]


def test_an_encoder_comes_with_one_graph_and_what_describes_it() -> None:
    chosen = choose(ENCODER)
    assert (chosen.engine, chosen.precision, chosen.file, chosen.root) == ("ort", "fp32", "onnx/model.onnx", "")
    assert set(chosen.files) == {
        "config.json", "tokenizer.json", "tokenizer_config.json", "modules.json", "1_Pooling/config.json",
        "onnx/model.onnx", "onnx/model.onnx_data", "LICENSE"}


@pytest.mark.parametrize(("said", "file"), [
    ("int8", "onnx/model_qint8_avx512.onnx"), ("fp16", "onnx/model_fp16.onnx"), ("O4", "onnx/model_O4.onnx")])
def test_a_reference_names_another_graph(said: str, file: str) -> None:
    chosen = choose(ENCODER, said)
    assert chosen.file == file
    assert "onnx/model.onnx" not in chosen.files


def test_weights_that_nothing_serves_are_pointed_to_a_conversion() -> None:
    with pytest.raises(RefusedFile, match="edged convert"):
        choose([path for path in ENCODER if "onnx" not in path])


def test_the_entry_of_files_chosen_by_hand_is_the_graph() -> None:
    assert entry_of("ort", ENCODER) == "onnx/model.onnx"


def gguf(path: Path, *values: tuple[str, int | str | list[str]]) -> Path:
    """uint32, strings and arrays of strings."""
    def text(said: str) -> bytes:
        return struct.pack("<Q", len(said.encode())) + said.encode()

    body = b""
    for key, value in values:
        if isinstance(value, int):
            body += text(key) + struct.pack("<II", 4, value)
        elif isinstance(value, str):
            body += text(key) + struct.pack("<I", 8) + text(value)
        else:
            body += text(key) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(values)) + body)
    return path


@pytest.mark.parametrize(("values", "task"), [
    ([("general.architecture", "llama"), ("tokenizer.ggml.tokens", ["a", "b"])], "generate"),
    ([("general.architecture", "bert"), ("bert.pooling_type", 1)], "embed"),
    ([("general.architecture", "nomic-bert")], "embed"),
    ([("general.architecture", "qwen3"), ("tokenizer.ggml.tokens", ["a"]), ("qwen3.pooling_type", 3)], "embed"),
    ([("general.architecture", "qwen3"), ("qwen3.pooling_type", 4)], "rerank"),
    ([("general.architecture", "bert"), ("bert.classifier.output_labels", ["LABEL_0"])], "rerank"),
    ([("general.architecture", "llama"), ("llama.pooling_type", 0)], "generate"),
])
def test_a_gguf_says_what_it_is_for(tmp_path: Path, values: list[Any], task: str) -> None:
    file = gguf(tmp_path / "m.gguf", *values)
    assert task_of("llama", "m.gguf", lambda path: file) == task


def test_a_damaged_gguf_is_left_to_its_engine(tmp_path: Path) -> None:
    whole = gguf(tmp_path / "m.gguf", ("general.architecture", "bert"), ("bert.pooling_type", 1)).read_bytes()
    for length in range(0, len(whole), 5):
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(whole[:length])
        assert task_of("llama", "m.gguf", lambda path, file=cut: file) == "generate"  # type: ignore[misc]


@pytest.mark.parametrize(("files", "task"), [
    ({"config.json": {"architectures": ["BertModel"]}, "modules.json": []}, "embed"),
    ({"config.json": {"architectures": ["BertModel"]}}, "embed"),
    ({"config.json": {"architectures": ["XLMRobertaForSequenceClassification"]}}, "rerank"),
    ({"config.json": {"architectures": ["Qwen3ForCausalLM"]}, "modules.json": []}, "embed"),
])
def test_an_onnx_folder_says_what_it_is_for(tmp_path: Path, files: dict[str, Any], task: str) -> None:
    for name, said in files.items():
        (tmp_path / name).write_text(json.dumps(said))
    found = lambda path: tmp_path / path if (tmp_path / path).exists() else None  # noqa: E731
    assert task_of("ort", "onnx/model.onnx", found) == task
    assert task_of("ort", "genai_config.json", found) == "generate"


def test_a_graph_of_a_model_that_writes_text_is_refused_without_genai_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(RefusedFile, match=r"genai_config\.json"):
        task_of("ort", "onnx/model.onnx", lambda path: tmp_path / path if path == "config.json" else None)
