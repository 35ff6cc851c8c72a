"""Which models llama.cpp runs just as transformers does, and how their configuration and weights are written down for
it. What is said here of an architecture was proven on it: a random model of each gives the same logits in both
(`tests/real/test_gguf_families.py`). Others are refused by name.

Names of tensors and keys are the package `gguf`'s; what its graphs assume is llama.cpp's (src/models/*.cpp).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, GGUFWriter, RopeScalingType
from numpy.typing import NDArray

from edged.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Family:
    """activation: the only one its graph has. permuted: rows of query and key lie in another order, since its graph
    turns neighbours and not halves (rotary embedding). norm_offset: the graph multiplies by the weight of a norm as it
    is, the model by weight + offset. windows: every how many layers one attends to all, and the others within the
    window; 0 where the graph knows no window."""

    arch: MODEL_ARCH
    activation: tuple[str, ...] = ("silu",)
    permuted: bool = False
    norm_offset: float = 0.0
    windows: int = 0


#: What llama.cpp takes for granted of yarn, whatever a file says; None: it has no such thing.
_YARN = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True, "mscale": None, "mscale_all_dim": None}
_GELU = ("gelu_pytorch_tanh", "gelu")

FAMILIES = {
    "LlamaForCausalLM": Family(MODEL_ARCH.LLAMA, permuted=True),
    "MistralForCausalLM": Family(MODEL_ARCH.LLAMA, permuted=True),
    "Qwen2ForCausalLM": Family(MODEL_ARCH.QWEN2),
    "Qwen3ForCausalLM": Family(MODEL_ARCH.QWEN3),
    "Phi3ForCausalLM": Family(MODEL_ARCH.PHI3),
    "GemmaForCausalLM": Family(MODEL_ARCH.GEMMA, activation=_GELU, norm_offset=1.0),
    "Gemma2ForCausalLM": Family(MODEL_ARCH.GEMMA2, activation=_GELU, norm_offset=1.0, windows=2),
    "Gemma3ForCausalLM": Family(MODEL_ARCH.GEMMA3, activation=_GELU, norm_offset=1.0, windows=6),
}


def family_of(config: Any) -> Family:
    """config: of transformers. Raises InvalidRequest naming the architecture where it is not one of ours, or has
    something that llama.cpp would leave out in silence."""
    name = (getattr(config, "architectures", None) or [config.model_type])[0]
    if (family := FAMILIES.get(name)) is None:
        raise InvalidRequest(
            f"{name} cannot be written as GGUF here (these can: {', '.join(FAMILIES)}); convert to ONNX, or make the "
            "GGUF with llama.cpp's convert_hf_to_gguf.py and pull that file")
    if getattr(config, "quantization_config", None):
        raise InvalidRequest(f"this {name} is quantized already; convert from its weights in 16 or 32 bits")
    act = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None) or family.activation[0]
    if act not in family.activation:
        raise _unlike(name, f"its activation is {act}, llama.cpp's is {family.activation[0]}")
    if family.windows and _full_layers(config) != [(layer + 1) % family.windows == 0
                                                   for layer in range(config.num_hidden_layers)]:
        raise _unlike(name, "its layers do not alternate between window and full attention as llama.cpp's do")
    scale = getattr(config, "query_pre_attn_scalar", None)
    # llama.cpp tells the one size of Gemma 2 and 3 that scales otherwise by its number of layers.
    large = config.num_hidden_layers == {MODEL_ARCH.GEMMA2: 46, MODEL_ARCH.GEMMA3: 62}.get(family.arch)
    if scale is not None and scale != (config.hidden_size // config.num_attention_heads if large else config.head_dim):
        raise _unlike(name, f"its attention is scaled by {scale}")
    return family


def context_of(config: Any, family: Family) -> tuple[int, str | None]:
    """Tokens that the result can hold, and a note where that is less than the model's own: where llama.cpp's graph has
    no window, only a context within the window computes the same."""
    context: int = config.max_position_embeddings
    window = getattr(config, "sliding_window", None)
    if not getattr(config, "use_sliding_window", True):
        window = None
    if family.windows or not window or window >= context:
        return context, None
    return window, (f"llama.cpp computes this model without its attention window of {window} tokens, so the context is "
                    f"{window} instead of {context}")


def write_settings(writer: GGUFWriter, config: Any, family: Family, context: int) -> None:
    """The keys of the architecture. Raises InvalidRequest for a scaling of positions that llama.cpp has not."""
    heads = config.num_attention_heads
    head = _head_size(config)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(context)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", None) or heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if family.windows:
        writer.add_sliding_window(config.sliding_window)
    if (cap := getattr(config, "attn_logit_softcapping", None)) is not None:
        writer.add_attn_logit_softcapping(cap)
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        writer.add_final_logit_softcapping(cap)
    _write_rope(writer, config, head)


def extra_tensors(config: Any) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Factors of the rotary embedding that are tensors in a GGUF and settings in a configuration."""
    rope = _rope(config)
    if rope["rope_type"] == "llama3":
        yield "rope_freqs.weight", _llama3_factors(rope, _head_size(config))
    elif rope["rope_type"] == "longrope":
        yield "rope_factors_long.weight", np.asarray(rope["long_factor"], np.float32)
        yield "rope_factors_short.weight", np.asarray(rope["short_factor"], np.float32)


def heads_of(name: str, config: Any) -> int | None:
    """How many heads lie in the rows of this tensor, for those that `permuted` speaks of; None for all others."""
    if name.endswith((".q_proj.weight", ".q_proj.bias")):
        return int(config.num_attention_heads)
    if name.endswith((".k_proj.weight", ".k_proj.bias")):
        return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    return None


def in_pairs(tensor: Any, heads: int) -> Any:
    """Rows (first half, second half) of each head → pairs, as `permuted` asks for. tensor: of torch or numpy."""
    return tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(
        tensor.shape)


def _unlike(name: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"llama.cpp cannot run this {name} as it is: {what}; convert to ONNX instead")


def _full_layers(config: Any) -> list[bool]:
    return [kind == "full_attention" for kind in config.layer_types]


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _rope(config: Any) -> dict[str, Any]:
    """rope_parameters of the layers that attend to all; some models have others for those with a window."""
    rope = config.rope_parameters
    return dict(rope.get("full_attention", rope))


def _write_rope(writer: GGUFWriter, config: Any, head: int) -> None:
    rope = _rope(config)
    writer.add_rope_dimension_count(int(head * rope.get("partial_rotary_factor", 1.0)))
    writer.add_rope_freq_base(rope["rope_theta"])
    if (window := config.rope_parameters.get("sliding_attention")) is not None:
        writer.add_rope_freq_base_swa(window["rope_theta"])
        if window["rope_type"] != "default":
            raise _unlike(config.architectures[0], f"positions within its windows are scaled ({window['rope_type']})")
    match rope["rope_type"]:
        case "default" | "llama3":
            pass
        case "linear":
            writer.add_rope_scaling_type(RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(rope["factor"])
        case "yarn":
            factor = rope["factor"]
            writer.add_rope_scaling_type(RopeScalingType.YARN)
            writer.add_rope_scaling_factor(factor)
            writer.add_rope_scaling_orig_ctx_len(_original_context(config, rope))
            odd = [key for key, usual in _YARN.items() if rope.get(key) not in (None, usual)]
            if odd:
                raise _unlike(config.architectures[0], f"its positions are scaled by yarn with {', '.join(odd)}")
            if (wanted := rope.get("attention_factor")) is not None:
                # llama.cpp multiplies by the usual factor in any case.
                writer.add_rope_scaling_attn_factors(wanted / (0.1 * math.log(factor) + 1.0))
        case "longrope":
            original = _original_context(config, rope)
            scale = rope.get("factor") or config.max_position_embeddings / original
            usual = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
            writer.add_rope_scaling_type(RopeScalingType.LONGROPE)
            writer.add_rope_scaling_orig_ctx_len(original)
            writer.add_rope_scaling_attn_factors(rope.get("attention_factor") or usual)
        case other:
            raise _unlike(config.architectures[0], f"its positions are scaled by {other}")


def _original_context(config: Any, rope: dict[str, Any]) -> int:
    return int(rope.get("original_max_position_embeddings")
               or getattr(config, "original_max_position_embeddings", None) or config.max_position_embeddings)


def _llama3_factors(rope: dict[str, Any], head: int) -> NDArray[np.float32]:
    """By how much each frequency is divided: the short wavelengths not at all, the long ones by `factor`, those between
    by something between (transformers, modeling_rope_utils.py, _compute_llama3_parameters)."""
    frequencies = rope["rope_theta"] ** -(np.arange(0, head, 2, dtype=np.float64) / head)
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * np.pi)
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return np.asarray(1 / ((1 - smooth) / factor + smooth), np.float32)
