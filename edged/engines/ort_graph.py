"""What a ModelBuilder graph offers to `ort`: its inputs, outputs and KV, and the reasons not to run it. Takes sessions
as they are and imports no library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.engines.genai_config import POSITIONS_GRAPH, POSITIONS_INPUT, Decoder, GenaiConfig
from edged.engines.kv_buffers import Layer
from edged.errors import LoadFailed

_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int8)": np.int8}


@dataclass(frozen=True, slots=True)
class Names:
    """Of the graph's inputs and outputs. positions, wanted: None where the graph has no such input."""

    ids: str
    mask: str
    logits: str
    positions: str | None
    wanted: str | None


def choose_graph(folder: Path, config: GenaiConfig) -> str:
    """The graph to load. Raises LoadFailed where attention cannot work on buffers of the whole context."""
    if (folder / POSITIONS_GRAPH).exists():
        return POSITIONS_GRAPH
    if not config.search.past_present_share_buffer:
        raise LoadFailed("this graph makes new KV tensors in each run, which is not served by this engine; serve it "
                         "with `engine = \"genai\"`, or convert the model with edged")
    if (config.model.decoder.sliding_window or {}).get("layers"):
        raise LoadFailed("this graph keeps the KV of its sliding windows in rings, which this engine does not serve; "
                         "serve it with `engine = \"genai\"`, or convert the model with edged")
    return config.model.decoder.filename


def lora_inputs(module: str) -> tuple[str, str]:
    """Names of A [in, rank] and B [rank, out] beside a linear layer, in a graph that takes adapters."""
    return f"{module}.lora_A", f"{module}.lora_B"


def read_graph(session: Any, decoder: Decoder, graph: str) -> tuple[Names, list[Layer]]:
    """Raises LoadFailed where the graph has inputs that this engine does not know, or lacks those it needs."""
    inputs = {one.name: one for one in session.get_inputs()}
    outputs = {one.name: one for one in session.get_outputs()}
    positions = decoder.inputs.get("position_ids", "position_ids")
    names = Names(
        ids=decoder.inputs.get("input_ids", "input_ids"), mask=decoder.inputs.get("attention_mask", "attention_mask"),
        logits=decoder.outputs.get("logits", "logits"), positions=positions if positions in inputs else None,
        wanted=POSITIONS_INPUT if POSITIONS_INPUT in inputs else None,
    )
    pairs = [
        (decoder.inputs.get(f"past_{part}_names", f"past_key_values.%d.{part}") % index,
         decoder.outputs.get(f"present_{part}_names", f"present.%d.{part}") % index)
        for index in range(decoder.num_hidden_layers) for part in ("key", "value")
    ]
    known = {names.ids, names.mask, names.positions, names.wanted, *(past for past, _ in pairs)}
    needed = [names.ids, names.mask, *(past for past, _ in pairs)]
    if missing := [name for name in needed if name not in inputs] + [
            name for name in (names.logits, *(present for _, present in pairs)) if name not in outputs]:
        raise LoadFailed(f"{graph} has no {missing[0]}: it is not a graph with KV that this engine can run")
    if unknown := [name for name in inputs if name not in known]:
        raise LoadFailed(f"{graph} has the input {unknown[0]}, which this engine cannot fill")
    if outputs[names.logits].type != "tensor(float)" or any(inputs[past].type not in _TYPES for past, _ in pairs):
        raise LoadFailed(f"{graph}: this engine reads logits in 32 bits and keeps KV in 32, 16 or 8; convert the model "
                         f"for cpu")
    return names, [
        Layer(past, present, _TYPES[inputs[past].type],
              heads=_known(inputs[past].shape[1], decoder.num_key_value_heads),
              size=_known(inputs[past].shape[3], decoder.head_size))
        for past, present in pairs
    ]


def _known(dimension: int | str, otherwise: int) -> int:
    """A graph's dimension may be a name."""
    return dimension if isinstance(dimension, int) else otherwise


def gives_all_logits(session: Any, names: Names, layers: list[Layer]) -> bool:
    """Whether a run of two tokens gives logits for both: not where the graph was built with prune_lm_head."""
    feeds: dict[str, NDArray[Any]] = {names.ids: np.zeros((1, 2), np.int64), names.mask: np.ones((1, 2), np.int64)}
    if names.positions:
        feeds[names.positions] = np.arange(2, dtype=np.int64)[None]
    for layer in layers:
        feeds[layer.past] = np.zeros((1, layer.heads, 0, layer.size), layer.kind)
    try:
        positions: int = session.run([names.logits], feeds)[0].shape[1]
    except Exception as error:
        raise LoadFailed(f"the graph does not run: onnxruntime: {error}") from error
    return positions == 2


def precision_of(layers: list[Layer]) -> str:
    """From the graph's inputs all that can be told is the type of activations; the manifest knows the weights'."""
    return "fp16" if layers[0].kind is np.float16 else "fp32"
