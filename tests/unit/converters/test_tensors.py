"""Headers of safetensors files: read, or the file is named as damaged."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from safetensors.numpy import save

from converters.tensors import read_header, read_headers, weight_files
from edged.errors import CorruptFile

pytestmark = pytest.mark.unit

GOOD = save({"a": np.arange(60, dtype=np.float32).reshape(6, 10), "b": np.ones(8, np.float16)}, {"format": "pt"})


def written(folder: Path, data: bytes) -> Path:
    (folder / "model.safetensors").write_bytes(data)
    return folder / "model.safetensors"


def with_header(header: object, tail: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tail


def test_a_whole_file_says_what_it_holds(tmp_path: Path) -> None:
    found = read_header(written(tmp_path, GOOD))
    assert {name: (info.dtype, info.shape, info.size_bytes, info.count) for name, info in found.items()} == {
        "a": ("F32", (6, 10), 240, 60), "b": ("F16", (8,), 16, 8)}


@pytest.mark.parametrize("sixteenth", range(16))
def test_a_file_cut_at_any_sixteenth_is_named(sixteenth: int, tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match=r"^model\.safetensors is damaged.*get the model again"):
        read_header(written(tmp_path, GOOD[:len(GOOD) * sixteenth // 16]))


@given(bit=some.integers(0, 8 * (8 + int.from_bytes(GOOD[:8], "little")) - 1))
def test_a_flipped_bit_of_the_header_is_another_header_or_the_file_is_named(
    bit: int, tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data = bytearray(GOOD)
    data[bit // 8] ^= 1 << bit % 8
    file = written(tmp_path_factory.mktemp("flipped"), bytes(data))
    try:
        found = read_header(file)
    except CorruptFile as error:
        said = error.message
    else:
        assert sum(info.size_bytes for info in found.values()) == 256
        return
    assert said.startswith("model.safetensors is damaged")


@pytest.mark.parametrize("data", [
    b"", b"GGUF", bytes(8), struct.pack("<Q", 1 << 62) + b"{}", with_header([]), with_header(["a"]),
    with_header({"a": 1}), with_header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
    with_header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}, bytes(8)),
    with_header({"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    with_header({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, bytes(8)),
    with_header({"a": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 8]}}, bytes(8)),
    GOOD + b"more", struct.pack("<Q", 200_000) + b"[" * 200_000,
], ids=range(14))
def test_no_made_up_file_is_taken(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match=r"model\.safetensors"):
        read_header(written(tmp_path, data))


def test_all_files_of_an_index_are_read_and_a_missing_one_is_named(tmp_path: Path) -> None:
    for name in ("model-1.safetensors", "model-2.safetensors"):
        (tmp_path / name).write_bytes(GOOD)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [file.name for file in read_headers(tmp_path)] == ["model-1.safetensors", "model-2.safetensors"]
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(CorruptFile, match=r"^model-2\.safetensors is missing"):
        weight_files(tmp_path)


@pytest.mark.parametrize("index", [
    "", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}', '{"weight_map": {"a": "../x.safetensors"}}',
    '{"weight_map": {"a": 3}}',
])
def test_a_damaged_index_is_named(index: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CorruptFile, match=r"model\.safetensors\.index\.json"):
        weight_files(tmp_path)
