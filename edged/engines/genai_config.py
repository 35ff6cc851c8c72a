"""genai_config.json, the description that onnxruntime-genai's builder writes beside a graph, as far as edged reads it.

edged's own graph over the same weights lies beside it, see `converters.positions`; other runtimes do not look at it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edged.engines.hf_vocab import read_json
from edged.errors import LoadFailed

#: The graph that computes logits only where they are wanted, and its input: int64 [wanted], positions in the flattened
#: [rows × tokens] of a run. Its logits are [wanted, vocabulary].
POSITIONS_GRAPH = "edged.onnx"
POSITIONS_INPUT = "edged_positions"

#: The graph that takes adapters, made of the best of the others (`converters.graph_lora`).
ADAPTERS_GRAPH = "adapters.onnx"

#: A property of edged's graphs: tokens a row may hold where rotary tables change beyond them, see `Model.context`.
CONTEXT_PROPERTY = "edged_context"

#: Families whose graphs turn to other rotary tables beyond this many tokens. KV of the tokens before would have to be
#: computed anew there, and one longer row would spoil the others of its run.
_ONE_TABLE_TOKENS = {"phi3": 4096, "phimoe": 4096, "phi3small": 8192}


class Decoder(msgspec.Struct, frozen=True):
    """sliding_window: layers keep no more than the window, in a ring."""

    filename: str
    num_hidden_layers: int
    num_key_value_heads: int
    head_size: int
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}
    sliding_window: dict[str, Any] | None = None


class Model(msgspec.Struct, frozen=True):
    decoder: Decoder
    vocab_size: int
    context_length: int
    type: str = ""
    eos_token_id: int | list[int] = []

    @property
    def end(self) -> frozenset[int]:
        return frozenset([self.eos_token_id] if isinstance(self.eos_token_id, int) else self.eos_token_id)

    @property
    def context(self) -> int:
        """Tokens that one row may hold, as far as the description tells; the graph may know better."""
        return min(self.context_length, _ONE_TABLE_TOKENS.get(self.type, self.context_length))


class Search(msgspec.Struct, frozen=True):
    """past_present_share_buffer: False where attention makes new KV tensors in each run."""

    past_present_share_buffer: bool = True


class GenaiConfig(msgspec.Struct, frozen=True):
    model: Model
    search: Search = Search()


def read_config(folder: Path) -> GenaiConfig:
    """Raises LoadFailed where the file is missing or describes no decoder."""
    try:
        return msgspec.convert(read_json(folder / "genai_config.json"), GenaiConfig)
    except msgspec.ValidationError as error:
        raise LoadFailed(f"genai_config.json: {error}") from error
