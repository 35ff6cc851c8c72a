"""The llama that a recipe describes, and what its sizes must be so that every form of it can be served. Pure."""

from __future__ import annotations

from typing import Any

from training.recipe import Architecture

#: Quantized weights share a scale by this many along a row (Q8_0, Q4_0, blocks of ONNX), and so do quantized keys and
#: values along a head. K-quants share by 256; llama.cpp stores other rows in a type nearby, and converters say so.
BLOCK = 32
K_QUANT_BLOCK = 256
#: 256 bytes, the special tokens, and some words.
LEAST_VOCABULARY = 300


def mistake(shape: Architecture) -> tuple[str, str] | None:
    """The first key that is wrong, with what is wrong and what would be right; None where nothing is."""
    if shape.heads % shape.kv_heads:
        return "kv_heads", f"{shape.kv_heads} does not divide the {shape.heads} heads; each pair of keys and values " \
                           f"serves as many of them: take {_divisor(shape.heads, shape.kv_heads)}"
    if shape.hidden % (shape.heads * BLOCK):
        right = _multiple(shape.hidden, shape.heads * BLOCK)
        return "hidden", f"{shape.hidden} is not {shape.heads} heads of a multiple of {BLOCK} (quantized weights and " \
                         f"keys share a scale by {BLOCK}): take {right}, or fewer heads"
    if shape.intermediate % BLOCK:
        return "intermediate", f"{shape.intermediate} is no multiple of {BLOCK}, by which quantized weights share a " \
                               f"scale: take {_multiple(shape.intermediate, BLOCK)}"
    if shape.vocabulary < LEAST_VOCABULARY:
        return "vocabulary", f"{shape.vocabulary} tokens are fewer than bytes and special tokens need: take " \
                             f"{LEAST_VOCABULARY} or more"
    return None


def llama(shape: Architecture, vocabulary: int) -> dict[str, Any]:
    """Arguments of transformers' LlamaConfig. The head is the embedding (tied): of so small a model it would be the
    largest matrix a second time, and what copies is then one table of words for reading and for writing.

    vocabulary: rows of it.
    """
    return {
        "vocab_size": vocabulary, "hidden_size": shape.hidden, "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.hidden // shape.heads, "max_position_embeddings": shape.context,
        "tie_word_embeddings": True, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0,
    }


def _multiple(number: int, of: int) -> int:
    """The nearest one, at least `of`."""
    return max(1, round(number / of)) * of


def _divisor(number: int, near: int) -> int:
    """Of number, the one nearest to `near`; the smaller of two."""
    return min((each for each in range(1, number + 1) if number % each == 0), key=lambda each: (abs(each - near), each))
