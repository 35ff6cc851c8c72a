"""Channels of unlike size are made more alike, before a graph is quantized, without a change of what it computes.

On CPU, MatMulNBits rounds its input to 8 bits in blocks, so one large channel costs the others of its block their
digits; that is more than half of what 8-bit weights lose. A channel that is divided by s where it is made, and whose
weights are multiplied by s where it is read, is the same to the model (SmoothQuant, Xiao et al. 2023, arXiv
2211.10438). Where it is made is the gain of a normalization, or the matrix that a gate is multiplied with.

How large channels are is seen in a run over random tokens: with text of the model's own the loss was the same, and so
no text has to be chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from converters.positions import keep_whole_context

Values = NDArray[np.float32]
#: Of onnx_ir, whose types leave open what this asks at each step: whether there is a name, a shape, a constant.
Graph: TypeAlias = Any
Node: TypeAlias = Any
Value: TypeAlias = Any

#: s = size ** STRENGTH; 0.5 shares the trouble between activations and weights.
STRENGTH = 0.5
_RUNS, _TOKENS = 4, 512
_NORMS = {
    "SimplifiedLayerNormalization": (1,), "LayerNormalization": (1, 2), "SkipSimplifiedLayerNormalization": (2,),
    "SkipLayerNormalization": (2, 3),
}


@dataclass(frozen=True, slots=True)
class Channels:
    """One tensor whose channels can be scaled. made: initializers to divide along their last axis; read: of MatMul,
    [channels, …], to multiply along their first."""

    tensor: str
    made: tuple[str, ...]
    read: tuple[str, ...]


def channels(graph: Graph) -> list[Channels]:
    """Tensors of which everything is known that makes and reads them, so that scaling changes nothing."""
    outputs = {value.name for value in graph.outputs}
    found: dict[str, Channels] = {}
    for node in graph:
        value = node.inputs[0] if node.op_type == "MatMul" else None
        if value is None or value.name in found or value.name in outputs or value.producer() is None:
            continue
        readers = [use.node for use in value.uses()]
        if any(reader.op_type != "MatMul" or reader.inputs[0] is not value for reader in readers):
            continue
        made = _made(value)
        read = [_own_initializer(reader, 1) for reader in readers]
        if made and None not in read:
            found[value.name] = Channels(value.name, made, tuple(name for name in read if name is not None))
    return list(found.values())


def _made(value: Value) -> tuple[str, ...]:
    node = value.producer()
    if node.op_type in _NORMS and node.outputs[0] is value:
        gains = [_own_initializer(node, index) for index in _NORMS[node.op_type] if index < len(node.inputs)]
        return tuple(gain for gain in gains if gain is not None) if None not in gains else ()
    if node.op_type == "Mul":
        for factor in node.inputs:
            maker = factor.producer()
            if maker is not None and maker.op_type == "MatMul" and len(factor.uses()) == 1 and (
                    weight := _own_initializer(maker, 1)) is not None:
                return (weight,)
    return ()


def _own_initializer(node: Node, index: int) -> str | None:
    """Name of the initializer that is this input of the node, and of no other node."""
    value = node.inputs[index]
    if value is None or value.const_value is None or len(value.uses()) != 1 or not value.is_initializer():
        return None
    return str(value.name)


def sizes(folder: Path, config: Any, wanted: list[Channels]) -> dict[str, Values]:
    """How large each channel is (square root of the sum of its squares), by tensor. folder: with the graph in 32 bits;
    config: `Model` of its genai_config.json. Writes a graph of its own beside it for the while."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    model = onnx.load(folder / config.decoder.filename, load_external_data=False)
    # A ring takes a past of its own size only; here there is none.
    keep_whole_context(model.graph)
    _drop_head(model.graph, config.decoder.outputs.get("logits", "logits"))
    model.graph.initializer.append(helper.make_tensor("edged/axes", TensorProto.INT64, [2], [0, 1]))
    for number, one in enumerate(wanted):
        name = f"edged/size{number}"
        model.graph.node.append(
            helper.make_node("ReduceSumSquare", [one.tensor, "edged/axes"], [name], name=f"/{name}", keepdims=0))
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    file = folder / "sizes.onnx"
    try:
        onnx.save(model, file)
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        # Weights stay in their file, mapped: this is one short run.
        settings.add_session_config_entry("session.disable_prepacking", "1")
        settings.enable_cpu_mem_arena = False
        session = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
        sums = [sum(parts) for parts in zip(*(
            session.run(None, _feeds(session, config, seed)) for seed in range(_RUNS)), strict=True)]
    finally:
        file.unlink(missing_ok=True)
    return {one.tensor: np.sqrt(total) for one, total in zip(wanted, sums, strict=True)}


def _drop_head(graph: Any, logits: str) -> None:
    """All that comes after the last normalization: logits would take most of the run's time and memory."""
    needed = {logits}
    for node in reversed(list(graph.node)):
        if needed & set(node.output) and node.op_type not in _NORMS:
            needed |= set(node.input)
            graph.node.remove(node)
    del graph.output[:]


def _feeds(session: Any, config: Any, seed: int) -> dict[str, NDArray[Any]]:
    tokens = min(_TOKENS, config.context_length)
    ids = np.random.default_rng(seed).integers(0, config.vocab_size, (1, tokens))
    feeds: dict[str, NDArray[Any]] = {}
    for one in session.get_inputs():
        if one.name == config.decoder.inputs.get("input_ids", "input_ids"):
            feeds[one.name] = ids
        elif one.name == config.decoder.inputs.get("attention_mask", "attention_mask"):
            feeds[one.name] = np.ones_like(ids)
        elif one.name == config.decoder.inputs.get("position_ids", "position_ids"):
            feeds[one.name] = np.broadcast_to(np.arange(tokens), ids.shape).copy()
        else:
            feeds[one.name] = np.zeros([1, one.shape[1], 0, config.decoder.head_size], np.float32)
    return feeds


def factors(size: Values) -> Values:
    """What to divide each channel by; their geometric mean is 1. Channels that were never used stay."""
    used = size > size.max(initial=0) * 1e-6
    scaled = np.where(used, np.where(used, size, 1) ** STRENGTH, 1).astype(np.float32)
    mean = np.exp(np.log(scaled[used]).mean()) if used.any() else 1.0
    return np.where(used, scaled / mean, 1).astype(np.float32)
