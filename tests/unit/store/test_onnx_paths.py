"""Where a graph has its weights (PROMISES T6). The graphs are made with the onnx package, the walker knows nothing of
it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto

from edged.errors import RefusedFile
from edged.store import Store, onnx_paths
from tests.models import contents, install

pytestmark = pytest.mark.unit

Put = Callable[[ModelProto], TensorProto]


def tensor(location: str) -> TensorProto:
    made = TensorProto(name="w", data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL, dims=[2])
    for key, value in (("location", location), ("offset", "0"), ("length", "8")):
        made.external_data.add(key=key, value=value)
    return made


def attribute(model: ModelProto) -> AttributeProto:
    made: AttributeProto = model.graph.node.add(op_type="If").attribute.add(name="branch")
    return made


def deep(model: ModelProto, depth: int = 20) -> GraphProto:
    graph = model.graph
    for _ in range(depth):
        graph = graph.node.add(op_type="Loop").attribute.add(name="body", type=AttributeProto.GRAPH).g
    return graph


#: Every place of a model where a tensor can be.
PLACES: dict[str, Put] = {
    "initializer": lambda model: model.graph.initializer.add(),
    "sparse values": lambda model: model.graph.sparse_initializer.add().values,
    "sparse indices": lambda model: model.graph.sparse_initializer.add().indices,
    "attribute": lambda model: attribute(model).t,
    "list of an attribute": lambda model: attribute(model).tensors.add(),
    "sparse attribute": lambda model: attribute(model).sparse_tensor.values,
    "list of sparse ones": lambda model: attribute(model).sparse_tensors.add().indices,
    "subgraph": lambda model: attribute(model).g.initializer.add(),
    "list of subgraphs": lambda model: attribute(model).graphs.add().initializer.add(),
    "subgraph of a subgraph": lambda model: deep(model).initializer.add(),
    "function": lambda model: model.functions.add().node.add().attribute.add().t,
    "default of a function": lambda model: model.functions.add().attribute_proto.add().t,
    "training": lambda model: model.training_info.add().initialization.initializer.add(),
    "training algorithm": lambda model: model.training_info.add().algorithm.node.add().attribute.add().t,
}


def found(data: bytes) -> list[str]:
    return list(onnx_paths.locations(io.BytesIO(data)))


def check(data: bytes, *members: str, path: str = "model.onnx") -> set[str]:
    return onnx_paths.check(path, io.BytesIO(data), members)


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_found_wherever_a_tensor_can_be(place: str) -> None:
    model = ModelProto(ir_version=10, producer_name="x")
    model.graph.initializer.add(name="plain", raw_data=b"12345678")
    PLACES[place](model).CopyFrom(tensor("../../etc/passwd"))
    model.graph.node.add(op_type="Relu", input=["a"], output=["b"])
    assert found(model.SerializeToString()) == ["../../etc/passwd"]


def test_no_place_for_a_tensor_is_forgotten() -> None:
    """Of the messages that the onnx package knows: every field that leads to a tensor is one that is entered."""
    kinds = {"Model": "ModelProto", "Training": "TrainingInfoProto", "Graph": "GraphProto", "Node": "NodeProto",
             "Function": "FunctionProto", "Attribute": "AttributeProto", "Sparse": "SparseTensorProto",
             "Tensor": "TensorProto", "Entry": "StringStringEntryProto"}
    messages = {name: getattr(onnx, name).DESCRIPTOR for name in kinds.values()}
    leading = {"TensorProto"}
    while more := {name for name, message in messages.items() if name not in leading and any(
            field.message_type is not None and field.message_type.name in leading for field in message.fields)}:
        leading |= more
    for mine, theirs in kinds.items():
        wanted = {field.number: field.message_type.name for field in messages[theirs].fields
                  if field.message_type is not None and field.message_type.name in leading}
        entered = {number: kinds[inner] for number, inner in onnx_paths._FIELDS[mine].items() if inner != "Entry"}
        assert entered == wanted
    assert messages["TensorProto"].fields_by_name["external_data"].number in onnx_paths._FIELDS["Tensor"]
    assert leading <= set(kinds.values())


@pytest.mark.parametrize("location", [
    "../weights", "a/../../weights", "/etc/passwd", "..\\weights", "weights\n", "", ".", "C:\\x", "other.data",
    "*/_ORT_MEM_ADDR_/*", "x" * 5000,
])
def test_weights_outside_of_the_folder_or_of_no_file_in_it_are_refused(location: str) -> None:
    model = ModelProto()
    model.graph.initializer.append(tensor(location))
    with pytest.raises(RefusedFile, match=r"m/model\.onnx is refused"):
        check(model.SerializeToString(), "m/model.onnx", "m/model.onnx.data", "other.data", path="m/model.onnx")


def test_weights_beside_the_graph_are_taken() -> None:
    model = ModelProto()
    for location in ("model.onnx.data", "./model.onnx.data", "sub/more.onnx.data"):
        model.graph.initializer.append(tensor(location))
    members = ("m/model.onnx", "m/model.onnx.data", "m/sub/more.onnx.data")
    assert check(model.SerializeToString(), *members, path="m/model.onnx") == set(members[1:])
    assert check(b"", "model.onnx") == set()


def test_long_values_of_other_keys_are_no_file_names() -> None:
    model = ModelProto()
    model.graph.initializer.append(tensor("w.onnx.data"))
    model.graph.initializer[0].external_data.add(key="prepacked_0", value="1;2;" * 5000)
    assert check(model.SerializeToString(), "w.onnx.data") == {"w.onnx.data"}


def varint(number: int, extra_bytes: int = 0) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    for _ in range(extra_bytes):
        out[-1] |= 0x80
        out.append(0)
    return bytes(out)


def field(number: int, data: bytes, extra_bytes: int = 0) -> bytes:
    return varint(number << 3 | 2, extra_bytes) + varint(len(data), extra_bytes) + data


def hidden(entry: bytes, extra_bytes: int = 0) -> bytes:
    return field(7, field(5, field(13, entry, extra_bytes), extra_bytes), extra_bytes)


def test_numbers_written_longer_than_needed_hide_nothing() -> None:
    entry = field(1, b"location", 2) + field(2, b"../x", 2)
    data = hidden(entry, 2)
    parsed = ModelProto.FromString(data)
    assert parsed.graph.initializer[0].external_data[0].value == "../x"
    assert found(data) == ["../x"]


def test_a_graph_in_two_halves_is_read_whole() -> None:
    data = hidden(field(1, b"location") + field(2, b"a")) + hidden(field(2, b"../b") + field(1, b"location"))
    assert [each.external_data[0].value for each in ModelProto.FromString(data).graph.initializer] == ["a", "../b"]
    assert found(data) == ["a", "../b"]


@pytest.mark.parametrize("data", [
    b"onnx", b"\x3a", b"\x3a\x05a", b"\x3b\x3c", b"\x3a\x80\x80\x80\x80\x80\x01", b"\x00\x00", b"\x08", b"\x0d\x01",
    hidden(field(1, b"location") + field(2, b"good") + field(2, b"../evil")),
    hidden(field(1, b"name") + field(1, b"location") + field(2, b"../evil")),
    hidden(field(1, b"location") + field(2, b"\xff\xfe")),
    hidden(field(1, b"location") + b"\x12\x7fx"),
], ids=lambda data: data[:12].hex())
def test_what_is_no_graph_is_refused(data: bytes) -> None:
    with pytest.raises(RefusedFile, match="get the model again"):
        found(data)


def test_graphs_within_graphs_without_end_are_refused() -> None:
    data = b""
    for _ in range(200):
        data = field(1, field(5, field(6, data)))
    with pytest.raises(RefusedFile, match="graphs within graphs"):
        found(field(7, data))


def tensors(message: Any) -> Iterator[TensorProto]:
    if isinstance(message, TensorProto):
        yield message
    for described, value in message.ListFields():
        if described.message_type is not None:
            for each in value if isinstance(value, list) or hasattr(value, "append") else [value]:
                yield from tensors(each)


@given(st.lists(st.tuples(st.sampled_from(sorted(PLACES)), st.text(max_size=20)), max_size=8))
def test_all_are_found_and_nothing_else(said: list[tuple[str, str]]) -> None:
    model = ModelProto(ir_version=10)
    for place, location in said:
        PLACES[place](model).CopyFrom(tensor(location))
    assert sorted(found(model.SerializeToString())) == sorted(location for _, location in said)


@given(st.binary(max_size=200), st.integers(0, 300), st.integers(0, 255))
def test_of_any_bytes_it_sees_all_that_the_real_parser_sees_or_refuses_them(noise: bytes, at: int, byte: int) -> None:
    model = ModelProto(ir_version=10)
    model.graph.initializer.append(tensor("../evil"))
    model.functions.add().node.add().attribute.add().t.CopyFrom(tensor("/evil"))
    whole = bytearray(model.SerializeToString())
    whole[at % len(whole)] = byte
    for data in (bytes(whole), noise, bytes(whole) + noise):
        try:
            parsed = ModelProto.FromString(data)
        except Exception:
            continue
        wanted = {entry.value for each in tensors(parsed) for entry in each.external_data if entry.key == "location"}
        try:
            seen = set(found(data))
        except RefusedFile:
            continue
        assert wanted <= seen


def onnx_folder(path: Path, location: str = "model.onnx.data") -> Path:
    path.mkdir()
    model = ModelProto(ir_version=10)
    model.graph.initializer.append(tensor(location))
    (path / "model.onnx").write_bytes(model.SerializeToString())
    (path / "genai_config.json").write_text("{}")
    (path / "model.onnx.data").write_bytes(b"weights!")
    return path


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "secret.onnx.data"])
def test_a_folder_whose_graph_reads_elsewhere_is_refused_and_nothing_is_left(tmp_path: Path, location: str) -> None:
    store = Store(tmp_path / "home")
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(RefusedFile, match=r"model\.onnx is refused"):
        install(store, str(onnx_folder(tmp_path / "m", location)))
    assert list((store.home / "blobs").iterdir()) == []


@pytest.mark.parametrize("kind", ["link to outside", "link inside", "hard link"])
def test_weights_that_are_a_link_are_refused(tmp_path: Path, kind: str) -> None:
    store = Store(tmp_path / "home")
    folder = onnx_folder(tmp_path / "m")
    data = folder / "model.onnx.data"
    outside = tmp_path / "outside"
    data.rename(outside)
    if kind == "link to outside":
        data.symlink_to(outside)
    elif kind == "link inside":
        (folder / "real.onnx.data").write_bytes(b"weights!")
        data.symlink_to("real.onnx.data")
    else:
        os.link(outside, data)
    with pytest.raises(RefusedFile, match=r"model\.onnx\.data.* link"):
        install(store, str(folder))
    assert store.names() == []


def test_an_honest_folder_is_taken(tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    folder = onnx_folder(tmp_path / "m")
    assert contents(store.folder(install(store, str(folder)))) == contents(folder)
