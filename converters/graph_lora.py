"""A LoRA for an ONNX base: a third graph over the same weights that takes adapters as inputs, and the adapter as such
inputs.

Beside each linear layer of a layer stack, Y = X·W becomes Y = X·W + (X·A)·B. A [in, rank] and B [rank, out] are
initializers that a run may override (IR 4): zeros of rank 1, which add nothing, unless an adapter is bound in their
place; its rank is free. The graph is the same for every adapter of a model, whatever layers that one has.

The adapter's file is onnxruntime's own format (`onnxruntime.AdapterFormat`), named as the graph's inputs are. Where the
builder has put query, key and value into one product, so are their A side by side and their B as blocks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from converters.lora import Pair
from edged.engines.genai_config import Decoder, read_config
from edged.engines.ort_graph import choose_graph, lora_inputs
from edged.errors import RefusedFile

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

#: Of the builder's names: layers' products only, not the head's.
_LINEAR = re.compile(r"/(model/layers\.\d+/(?:attn|mlp)/\w+_proj)/MatMul(?:NBits)?\w*")
_FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class _Linear:
    """A product of the graph. name: of its module, with dots; rows: out, columns: in."""

    name: str
    node: NodeProto
    columns: int
    rows: int


def write(folder: Path, pairs: Mapping[str, Pair], *, graph: Path, out: Path) -> None:
    """folder: of the base, as onnxruntime-genai's builder made it. pairs: by module of transformers. Raises RefusedFile
    where the base has no such layers; LoadFailed where its graph is none that the engine runs."""
    import onnx

    config = read_config(folder)
    model = onnx.load(folder / choose_graph(folder, config), load_external_data=False)
    linears = {linear.name: linear for linear in _linears(model.graph)}
    _write_adapter(_fitted(pairs, linears, config.model.decoder), out)
    for linear in linears.values():
        _insert(model.graph, linear)
    graph.write_bytes(model.SerializeToString())


def _linears(graph: GraphProto) -> list[_Linear]:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    found = []
    for node in graph.node:
        match = _LINEAR.fullmatch(node.name)
        if match is None or node.op_type not in ("MatMul", "MatMulNBits"):
            continue
        size = {attribute.name: attribute.i for attribute in node.attribute}
        columns, rows = (size["K"], size["N"]) if "N" in size else shapes.get(node.input[1], (0, 0))
        if columns and rows:
            found.append(_Linear(match[1].replace("/", "."), node, columns, rows))
    return found


def _insert(graph: GraphProto, linear: _Linear) -> None:
    from onnx import TensorProto, helper, numpy_helper

    node, (a, b) = linear.node, lora_inputs(linear.name)
    result, base, inner, delta = node.output[0], f"{linear.name}.base", f"{linear.name}.inner", f"{linear.name}.delta"
    node.output[0] = base
    place = next(index for index, one in enumerate(graph.node) if one is node) + 1
    for offset, new in enumerate((
        helper.make_node("MatMul", [node.input[0], a], [inner], name=f"/{inner}"),
        helper.make_node("MatMul", [inner, b], [delta], name=f"/{delta}"),
        helper.make_node("Add", [base, delta], [result], name=f"/{linear.name}.sum"),
    )):
        graph.node.insert(place + offset, new)
    # Dimensions of one name would be tied to each other: a module's halves are, two modules are not.
    rank = f"{linear.name}.rank"
    shapes: dict[str, list[str | int | None]] = {a: [linear.columns, rank], b: [rank, linear.rows]}
    for name, shape in shapes.items():
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        zeros = np.zeros([size if isinstance(size, int) else 1 for size in shape], np.float32)
        graph.initializer.append(numpy_helper.from_array(zeros, name))


def _fitted(
    pairs: Mapping[str, Pair], linears: Mapping[str, _Linear], decoder: Decoder,
) -> dict[str, NDArray[np.float32]]:
    """The inputs, by name; scales are in B."""
    inputs: dict[str, list[tuple[int, Pair]]] = {}
    for module, pair in pairs.items():
        name, first, rows = _place(module, linears, decoder)
        linear = linears.get(name)
        if linear is None:
            raise RefusedFile(f"the adapter was trained for another model: this base has no {module[:120]}")
        if (pair.a.shape[1], pair.b.shape[0]) != (linear.columns, rows if rows is not None else linear.rows):
            raise RefusedFile(
                f"the adapter was trained for another model: for {module[:120]} it has {list(pair.a.shape)} and "
                f"{list(pair.b.shape)}, and the base has {[rows or linear.rows, linear.columns]} there")
        inputs.setdefault(name, []).append((first, pair))
    found: dict[str, NDArray[np.float32]] = {}
    for name, parts in inputs.items():
        a, b = lora_inputs(name)
        blocks = np.zeros((sum(pair.rank for _, pair in parts), linears[name].rows), np.float32)
        filled = 0
        for first, pair in parts:
            blocks[filled:filled + pair.rank, first:first + pair.b.shape[0]] = pair.scaled_b.T
            filled += pair.rank
        found[a] = np.ascontiguousarray(np.concatenate([pair.a for _, pair in parts]).T)
        found[b] = blocks
    return found


def _place(module: str, linears: Mapping[str, _Linear], decoder: Decoder) -> tuple[str, int, int | None]:
    """The product that has the module's rows, the first of them and how many; None for all that it has."""
    name = module.replace(".self_attn.", ".attn.")
    stem, _, part = name.rpartition(".")
    whole = linears.get(f"{stem}.qkv_proj")
    if name in linears or whole is None or part not in ("q_proj", "k_proj", "v_proj"):
        return name, 0, None
    heads = decoder.num_key_value_heads * decoder.head_size
    query = whole.rows - 2 * heads
    first, rows = {"q_proj": (0, query), "k_proj": (query, heads), "v_proj": (query + heads, heads)}[part]
    return whole.name, first, rows


def _write_adapter(inputs: Mapping[str, NDArray[np.float32]], out: Path) -> None:
    import onnxruntime

    adapter: Any = onnxruntime.AdapterFormat()
    adapter.set_adapter_version(_FORMAT_VERSION)
    adapter.set_model_version(_FORMAT_VERSION)
    adapter.set_parameters({
        name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in inputs.items()})
    adapter.export_adapter(str(out))
