"""Random GGUF files whose KV cannot go back: a Mamba, and a Jamba that has a layer of attention beside. Their
vocabulary is the 256 bytes and three special tokens; kilobytes, no download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from transformers.convert_slow_tokenizer import bytes_to_unicode

_WIDTH, _INNER, _STATE, _KERNEL, _RANK, _HEADS, _FEED = 64, 128, 16, 4, 8, 4, 96
_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def make_recurrent(file: Path, *, hybrid: bool) -> Path:
    arch = gguf.MODEL_ARCH.JAMBA if hybrid else gguf.MODEL_ARCH.MAMBA
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_context_length(2048)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(2)
    writer.add_feed_forward_length(_FEED if hybrid else 0)
    writer.add_head_count(_HEADS if hybrid else 0)
    if hybrid:
        writer.add_head_count_kv([0, 2])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_ssm_conv_kernel(_KERNEL)
    writer.add_ssm_inner_size(_INNER)
    writer.add_ssm_state_size(_STATE)
    writer.add_ssm_time_step_rank(_RANK)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    tokens = [*bytes_to_unicode().values(), *_SPECIAL]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * len(_SPECIAL))
    writer.add_token_merges(["Ġ t", "h e"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(258)
    numbers = np.random.default_rng(7)

    def add(name: str, *shape: int, scale: float = 0.3) -> None:
        writer.add_tensor(name, (numbers.standard_normal(shape) * scale).astype(np.float32))

    def ones(name: str, *shape: int) -> None:
        writer.add_tensor(name, np.ones(shape, np.float32))

    add("token_embd.weight", len(tokens), _WIDTH, scale=1.0)
    ones("output_norm.weight", _WIDTH)
    for layer in range(2):
        at = f"blk.{layer}."
        ones(at + "attn_norm.weight", _WIDTH)
        if hybrid and layer == 1:
            add(at + "attn_q.weight", _WIDTH, _WIDTH)
            for part in ("attn_k", "attn_v"):
                add(f"{at}{part}.weight", 2 * _WIDTH // _HEADS, _WIDTH)
            add(at + "attn_output.weight", _WIDTH, _WIDTH)
        else:
            _add_mamba(writer, at, add, ones, norms=hybrid)
        if hybrid:
            ones(at + "ffn_norm.weight", _WIDTH)
            for part in ("ffn_gate", "ffn_up"):
                add(f"{at}{part}.weight", _FEED, _WIDTH)
            add(at + "ffn_down.weight", _WIDTH, _FEED)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_mamba(writer: gguf.GGUFWriter, at: str, add: Any, ones: Any, *, norms: bool) -> None:
    add(at + "ssm_in.weight", 2 * _INNER, _WIDTH)
    add(at + "ssm_conv1d.weight", _INNER, _KERNEL)
    add(at + "ssm_conv1d.bias", _INNER)
    add(at + "ssm_x.weight", _RANK + 2 * _STATE, _INNER)
    add(at + "ssm_dt.weight", _INNER, _RANK)
    add(at + "ssm_dt.bias", _INNER)
    writer.add_tensor(at + "ssm_a", -np.tile(np.arange(1, _STATE + 1, dtype=np.float32) / 20, (_INNER, 1)))
    ones(at + "ssm_d", _INNER)
    add(at + "ssm_out.weight", _WIDTH, _INNER)
    if norms:
        ones(at + "ssm_dt_norm.weight", _RANK)
        ones(at + "ssm_b_norm.weight", _STATE)
        ones(at + "ssm_c_norm.weight", _STATE)
