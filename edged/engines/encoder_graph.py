"""What an ONNX encoder offers: its inputs, and which of its outputs is wanted. Takes sessions as they are and imports
no library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edged.engines.encoder_config import EncoderConfig
from edged.errors import LoadFailed
from edged.types import LoadSpec

INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
#: Names that exporters give to one vector for each input, with all modules of sentence-transformers inside.
_POOLED = ("sentence_embedding", "sentence_embeddings", "pooled_embeddings")
_PRECISIONS = {"tensor(float)": "fp32", "tensor(float16)": "fp16"}


@dataclass(frozen=True, slots=True)
class EncoderGraph:
    """inputs: those of `INPUTS` that it has. output: the one that is read; pooled: it has one vector, or score, for
    each input, else one for each token. precision: of that output."""

    inputs: tuple[str, ...]
    output: str
    pooled: bool
    precision: str


def read_graph(session: Any, spec: LoadSpec, config: EncoderConfig) -> EncoderGraph:
    """Raises LoadFailed where the graph wants what an encoder has not, or gives nothing that can be used."""
    inputs = {one.name: one for one in session.get_inputs()}
    if unknown := sorted(set(inputs) - set(INPUTS)):
        raise LoadFailed(f"{spec.file} has the input {unknown[0]}, which no encoder has: it is no model of this kind")
    outputs = [one for one in session.get_outputs() if one.type in _PRECISIONS]
    pooled = [one for one in outputs if len(one.shape) == 2]
    of_tokens = [one for one in outputs if len(one.shape) == 3]
    if spec.task == "rerank":
        chosen = next((one for one in pooled if one.name == "logits"), pooled[0] if pooled else None)
    elif of_tokens and config.pooling is not None and not config.dense:
        chosen = of_tokens[0]
    else:
        chosen = next((one for one in pooled if one.name in _POOLED), None)
    if chosen is None:
        raise LoadFailed(_unusable(spec, config, [one.name for one in session.get_outputs()]))
    return EncoderGraph(
        inputs=tuple(name for name in INPUTS if name in inputs), output=chosen.name, pooled=len(chosen.shape) == 2,
        precision=_PRECISIONS[chosen.type])


def _unusable(spec: LoadSpec, config: EncoderConfig, names: list[str]) -> str:
    told = f"{spec.file} gives {', '.join(names)}"
    if spec.task == "rerank":
        return f"{told}: a reranker gives logits, one for each pair"
    if config.dense:
        return f"{told}: this model has a dense layer after pooling, which the graph must have inside " \
               "(sentence_embedding)"
    if config.pooling is None:
        return (f"{told}, and its folder does not say how to make one vector of them; the model's page tells it: "
                "options = { pooling = \"mean\", normalize = true } (or \"cls\", \"lasttoken\") in models.toml")
    return f"{told}: there is no vector for each token among them"
