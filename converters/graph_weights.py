"""A graph in 32 bits, as onnxruntime-genai's builder makes it, into one with weights in 4 and 8 bits, matrix by matrix
as a recipe says.

The builder quantizes too, but all matrices alike or by a rule of its own, keeps embeddings in 32 bits beside an 8-bit
head that has the same weights, and takes the coarsest grid. Nodes are those of the builder: MatMulNBits, and
GatherBlockQuantized for embeddings, which share the head's weights where the model ties them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from converters import graph_smooth
from converters.graph_smooth import Graph, Node, Value
from converters.nearest import nearest
from converters.recipe import WeightRule
from edged.engines.genai_config import Model, read_config

_DOMAIN = "com.microsoft"
#: MatMulNBits rounds its input to 8 bits too; without that it is 60 times slower for weights in 8 bits, twice for 4.
_ACCURACY_LEVEL = 4


@dataclass(frozen=True, slots=True)
class _Stored:
    """Values of the graph that hold one quantized matrix."""

    bits: int
    block: int
    values: Value
    scales: Value
    zeros: Value | None


def quantize(
    folder: Path, out: Path, rules: Sequence[WeightRule], *, smooth: bool, tell: Callable[[str], None]
) -> None:
    """Writes model.onnx and model.onnx.data into `out`. folder: as the builder writes it, in 32 bits. smooth:
    `converters.graph_smooth` first. tell: what is being done, in words."""
    config = read_config(folder).model
    model = ir.load(folder / config.decoder.filename)
    work = _Work(model.graph, config, rules)
    if smooth:
        tell("Reading sizes of channels")
        work.smooth(folder)
    for node in list(model.graph):
        if node.op_type == "MatMul":
            work.matrix(node, tell)
        elif node.op_type == "MatMulNBits":
            work.narrow(node)
    for node in list(model.graph):
        if node.op_type == "Gather":
            work.embedding(node)
    work.sweep()
    model.graph.sort()
    model.opset_imports.setdefault(_DOMAIN, 1)
    tell("Saving ONNX model")
    ir.save(model, out / config.decoder.filename, external_data=f"{config.decoder.filename}.data",
            size_threshold_bytes=256)


class _Work:
    def __init__(self, graph: Graph, config: Model, rules: Sequence[WeightRule]) -> None:
        self._graph = graph
        self._config = config
        self._rules = rules
        self._stored: dict[str, _Stored] = {}
        #: By name of a matrix [inputs, outputs]: what its rows are to be multiplied with, and its columns.
        self._rows: dict[str, NDArray[np.float32]] = {}
        self._columns: dict[str, NDArray[np.float32]] = {}

    def smooth(self, folder: Path) -> None:
        found = graph_smooth.channels(self._graph)
        sizes = graph_smooth.sizes(folder, self._config, found)
        for one in found:
            factors = graph_smooth.factors(sizes[one.tensor])
            for name in one.made:
                value = self._graph.initializers[name]
                if len(value.shape) == 1:
                    value.const_value = ir.tensor(value.const_value.numpy() / factors, name=name)
                else:
                    self._columns[name] = np.float32(1) / factors
            for name in one.read:
                self._rows[name] = factors

    def matrix(self, node: Node, tell: Callable[[str], None]) -> None:
        weights = node.inputs[1]
        if weights.const_value is None or len(weights.shape) != 2:
            return
        inputs, outputs = (int(size) for size in weights.shape)
        stored = self._stored.get(weights.name)
        if stored is None:
            if (rule := self._rule(node)) is None:
                self._scale(weights)
                return
            tell(f"Quantizing {node.name}")
            stored = self._store(weights.name, self._read(weights).T, rule)
        attributes: dict[str, Any] = {
            "K": inputs, "N": outputs, "bits": stored.bits, "block_size": stored.block,
            "accuracy_level": _ACCURACY_LEVEL,
        }
        operands = [node.inputs[0], stored.values, stored.scales, *([stored.zeros] if stored.zeros else [])]
        self._replace(node, "MatMulNBits", operands, attributes)

    def narrow(self, node: Node) -> None:
        """Scales of a matrix that was quantized before the graph was built, into 16 bits."""
        scales = node.inputs[2]
        if scales.const_value is not None and scales.dtype == ir.DataType.FLOAT:
            half = scales.const_value.numpy().astype(np.float16)
            node.replace_input_with(2, self._widened(f"{scales.name}.half", half))

    def embedding(self, node: Node) -> None:
        """Of the tokens; other Gathers have other inputs."""
        table, ids = node.inputs[0], node.inputs[1]
        if ids.name != self._config.decoder.inputs.get("input_ids", "input_ids"):
            return
        maker = table.producer()
        if maker is not None and maker.op_type == "Transpose" and maker.inputs[0].name in self._stored:
            stored = self._stored[maker.inputs[0].name]
        elif table.const_value is not None and (rule := self._rule(node)) is not None:
            stored = self._store(table.name, self._read(table), rule)
        else:
            return
        if self._size(table) % stored.block:
            return
        width = self._size(table) * stored.bits // 8
        flat = self._initializer(f"{node.name[1:]}.width", np.array([-1, width], np.int64))
        reshape = ir.node("Reshape", [stored.values, flat], name=f"{node.name}/Reshape")
        self._graph.insert_before(node, reshape)
        operands = [reshape.outputs[0], ids, stored.scales, *([stored.zeros] if stored.zeros else [])]
        self._replace(node, "GatherBlockQuantized", operands, {
            "bits": stored.bits, "block_size": stored.block, "gather_axis": 0, "quantize_axis": 1})
        if maker is not None and not maker.outputs[0].uses():
            self._graph.remove(maker, safe=True)

    def _size(self, table: Value) -> int:
        maker = table.producer()
        return int(maker.inputs[0].shape[0] if maker is not None else table.shape[1])

    def _rule(self, node: Node) -> WeightRule | None:
        layers = self._config.decoder.num_hidden_layers
        rule = next((rule for rule in self._rules if _fits(rule, node.name, layers)), None)
        return rule if rule is not None and rule.bits < 32 else None

    def _read(self, weights: Value) -> NDArray[np.float32]:
        stored = weights.const_value
        values: NDArray[np.float32] = np.array(stored.numpy())
        if isinstance(stored, ir.ExternalTensor):
            stored.release()
        if (rows := self._rows.get(weights.name)) is not None:
            values *= rows[:, None]
        if (columns := self._columns.get(weights.name)) is not None:
            values *= columns
        return values

    def _scale(self, weights: Value) -> None:
        if weights.name in self._rows or weights.name in self._columns:
            weights.const_value = ir.tensor(self._read(weights), name=weights.name)

    def _store(self, name: str, weights: NDArray[np.float32], rule: WeightRule) -> _Stored:
        """weights [outputs, inputs]; the last block is filled with zeros."""
        rows, inputs = weights.shape
        blocks = -(-inputs // rule.block)
        padded = torch.zeros(rows, blocks * rule.block)
        padded[:, :inputs] = torch.from_numpy(np.ascontiguousarray(weights))
        grid = nearest(padded.view(rows, blocks, rule.block), rule.bits)
        stored = _Stored(
            rule.bits, rule.block, self._initializer(f"{name}.values", _packed(grid.values, rule.bits)),
            self._widened(f"{name}.scales", grid.scales.numpy()),
            None if grid.zeros is None
            else self._initializer(f"{name}.zeros", _packed(grid.zeros, rule.bits)),
        )
        self._stored[name] = stored
        return stored

    def _widened(self, name: str, half: NDArray[np.float16]) -> Value:
        """Stored in 16 bits; onnxruntime widens them once, when it loads the graph."""
        cast = ir.node("Cast", [self._initializer(name, half)], attributes={"to": ir.DataType.FLOAT.value},
                       name=f"/{name}/Cast")
        self._graph.append(cast)
        return cast.outputs[0]

    def _initializer(self, name: str, values: NDArray[Any]) -> Value:
        tensor = ir.tensor(values, name=name)
        value = ir.Value(name=name, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._graph.register_initializer(value)
        return value

    def _replace(self, node: Node, kind: str, operands: list[Value], attributes: dict[str, Any]) -> None:
        new = ir.node(kind, operands, attributes=attributes, domain=_DOMAIN, name=node.name, outputs=None)
        new.outputs[0].name = node.outputs[0].name
        new.outputs[0].shape, new.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
        self._graph.insert_before(node, new)
        ir.convenience.replace_all_uses_with(node.outputs[0], new.outputs[0], replace_graph_outputs=True)
        self._graph.remove(node, safe=True)

    def sweep(self) -> None:
        """Away with what nothing reads any more."""
        for name, value in list(self._graph.initializers.items()):
            if not value.uses():
                del self._graph.initializers[name]


def _packed(values: torch.Tensor, bits: int) -> NDArray[np.uint8]:
    """values: one in each byte. 4 bits: two neighbours of the last axis share a byte, the first in its low half."""
    if bits == 8:
        whole: NDArray[np.uint8] = values.contiguous().numpy()
        return whole
    if values.shape[-1] % 2:
        values = torch.nn.functional.pad(values, (0, 1))
    both: NDArray[np.uint8] = (values[..., 0::2] | values[..., 1::2] << 4).contiguous().numpy()
    return both


def _fits(rule: WeightRule, node: str, layers: int) -> bool:
    if re.search(rule.match, node) is None:
        return False
    number = re.search(r"layers\.(\d+)/", node)
    return rule.layers == "all" or (number is not None and layers / 8 <= int(number[1]) < layers - layers / 8)
