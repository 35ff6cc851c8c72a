"""A second graph over the same weights, made for edged's engine.

It computes logits only where they are wanted. The head of a language model is a matrix as large as its vocabulary: for
a small model a third of all work of a prefill, whose logits nobody reads but those of the last position.
`prune_lm_head` of onnxruntime-genai's builder leaves that last one alone, which the gate, echo and speculation cannot
use. So the wanted positions are an input here.

And layers with a sliding window keep the KV of the whole context: the builder's rings must be as large as the window,
and lose what a trim would go back to.

The graph is `edged.onnx` beside the plain one and names the same external data, so it costs its nodes (some hundred
kilobytes) and no weights; the plain one stays what other runtimes load.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from edged.engines.genai_config import CONTEXT_PROPERTY, POSITIONS_GRAPH, POSITIONS_INPUT, read_config
from edged.errors import LoadFailed

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

_HEADS = frozenset({"MatMul", "MatMulNBits", "Gemm"})
#: What the builder puts between the head and `logits`: bias, scale, mask, soft cap, cast. All work on each logit alone.
_AFTER_HEAD = frozenset({"Add", "Mul", "Div", "Where", "Tanh", "Cast"})


def gather_positions(folder: Path) -> None:
    """Write `edged.onnx` into a folder made by onnxruntime-genai's builder, whole or not at all.

    Raises LoadFailed where the graph has no head that this knows, or one that was pruned; the folder is then as it was.
    """
    import onnx

    decoder = read_config(folder).model.decoder
    model = onnx.load(folder / decoder.filename, load_external_data=False)
    _insert(model.graph, decoder.outputs.get("logits", "logits"))
    keep_whole_context(model.graph)
    if (tokens := _one_table_tokens(model.graph)) is not None:
        onnx.helper.set_model_props(model, {CONTEXT_PROPERTY: str(tokens)})
    unfinished = folder / f"{POSITIONS_GRAPH}.part"
    with unfinished.open("wb") as file:
        file.write(model.SerializeToString())
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(folder / POSITIONS_GRAPH)


def _insert(graph: GraphProto, logits: str) -> None:
    """hidden [rows, tokens, size] → Flatten [rows × tokens, size] → Gather [wanted, size] → head."""
    from onnx import TensorProto, helper

    [output] = [value for value in graph.output if value.name == logits]
    tokens, vocabulary = (dimension.dim_value for dimension in output.type.tensor_type.shape.dim[1:])
    if tokens == 1:
        raise LoadFailed("the graph gives logits of the last position only; build it without prune_lm_head")
    head, after = _head(graph, logits)
    flat, wanted = f"{POSITIONS_INPUT}/flat", f"{POSITIONS_INPUT}/wanted"
    gather = [
        helper.make_node("Flatten", [head.input[0]], [flat], name=f"/{flat}", axis=2),
        helper.make_node("Gather", [flat, POSITIONS_INPUT], [wanted], name=f"/{wanted}", axis=0),
    ]
    head.input[0] = wanted
    # The builder does not sort its nodes, but a node may only stand after what it reads.
    place = next(index for index, node in enumerate(graph.node) if node is head)
    for node in reversed(gather):
        graph.node.insert(place, node)
    graph.input.append(helper.make_tensor_value_info(POSITIONS_INPUT, TensorProto.INT64, ["wanted"]))
    output.CopyFrom(helper.make_tensor_value_info(
        logits, output.type.tensor_type.elem_type, ["wanted", vocabulary]))
    # Recorded shapes of what comes after the head are those of three dimensions.
    kept = [value for value in graph.value_info if value.name not in after]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def keep_whole_context(graph: GraphProto) -> None:
    """Layers with a sliding window read as much as before, but of KV that is not a ring."""
    for node in graph.node:
        if (ring := next((one for one in node.attribute if one.name == "sliding_window_cache"), None)) is not None:
            node.attribute.remove(ring)


def _one_table_tokens(graph: GraphProto) -> int | None:
    """Beyond how many tokens the graph turns to other rotary tables: Greater(tokens, limit) → If, as the builder makes
    it for positions scaled by `longrope`. None where there is one table."""
    from onnx import numpy_helper

    maker = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        condition = maker.get(node.input[0]) if node.op_type == "If" else None
        if condition is not None and condition.op_type == "Greater":
            limit = maker[condition.input[1]]
            return int(numpy_helper.to_array(next(one.t for one in limit.attribute if one.name == "value")))
    return None


def _head(graph: GraphProto, logits: str) -> tuple[NodeProto, set[str]]:
    """The matrix product that gives the logits, and the names of all tensors from it to them."""
    maker = {output: node for node in graph.node for output in node.output}
    fixed = {tensor.name for tensor in graph.initializer} | {
        output for node in graph.node if node.op_type == "Constant" for output in node.output}
    name, after = logits, {logits}
    while (node := maker.get(name)) is not None and node.op_type in _AFTER_HEAD:
        moving = [one for one in node.input if one not in fixed]
        if len(moving) != 1:
            break
        [name] = moving
        after.add(name)
    if node is None or node.op_type not in _HEADS:
        found = "nothing" if node is None else f"{node.op_type} {node.name}"
        raise LoadFailed(f"the graph's logits come from {found}, not from a matrix product that edged can narrow")
    return node, after
