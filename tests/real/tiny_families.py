"""Random models of the families that become GGUF, two to four layers each, with tokenizers trained on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from tests.real.tiny_model import TEMPLATE

VOCABULARY = 600
_TEXT = Path(__file__).parents[2] / "LICENSE"
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.08,
}
_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
_GEMMA = {"head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 16}

#: By name: its configuration.
FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**_COMMON, tie_word_embeddings=False),
    "llama with biases": lambda: LlamaConfig(**_COMMON, attention_bias=True),
    "llama with wide heads": lambda: LlamaConfig(**_COMMON, head_dim=128, tie_word_embeddings=True),
    "llama 3": lambda: LlamaConfig(**_COMMON, rope_parameters=_LLAMA3),
    "llama, linear": lambda: LlamaConfig(
        **_COMMON, rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),
    "mistral": lambda: MistralConfig(**_COMMON, sliding_window=None),
    "qwen 2": lambda: Qwen2Config(**_COMMON, tie_word_embeddings=True),
    "qwen 2, yarn": lambda: Qwen2Config(**_COMMON, rope_parameters=_YARN),
    "qwen 2, yarn by hand": lambda: Qwen2Config(**_COMMON, rope_parameters={**_YARN, "attention_factor": 1.5}),
    "qwen 3": lambda: Qwen3Config(**_COMMON, head_dim=64),
    "phi 3": lambda: Phi3Config(**_COMMON, sliding_window=None),
    "phi 3, long": lambda: Phi3Config(
        **_COMMON, sliding_window=None, original_max_position_embeddings=256,
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 256,
            "short_factor": [1.0 + index / 32 for index in range(32)], "long_factor": [4.0] * 32}),
    "gemma": lambda: GemmaConfig(**_COMMON, head_dim=64),
    "gemma 2": lambda: Gemma2Config(**{**_COMMON, "num_hidden_layers": 4}, **_GEMMA),
    "gemma 3": lambda: Gemma3TextConfig(**{**_COMMON, "num_hidden_layers": 6}, **_GEMMA),
}
#: A family that llama.cpp knows and edged does not.
FOREIGN: Callable[[], Any] = lambda: GPT2Config(vocab_size=VOCABULARY, n_embd=64, n_layer=1, n_head=2)  # noqa: E731


def make(folder: Path, config: Any, tokenizer: Tokenizer | None = None, dtype: torch.dtype = torch.float32) -> Path:
    """A Hugging Face folder with random weights, norms and biases too."""
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            assert parameter.ndim <= 2, name
    model.to(dtype).save_pretrained(folder)
    wrapped(tokenizer or byte_level()).save_pretrained(folder)
    return folder


def wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    texts = [tokenizer.id_to_token(index) for index in range(3)]
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=texts[0], bos_token=texts[1], eos_token=texts[2], pad_token=texts[0])
    made.chat_template = TEMPLATE
    return made


def byte_level(
    splits: pre_tokenizers.PreTokenizer | None = None, *, gpt2: bool = True, begins: bool = False,
) -> Tokenizer:
    """splits: how text is split before the bytes become characters; gpt2: also as GPT-2 does it."""
    tokenizer = Tokenizer(models.BPE())
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=gpt2)
    tokenizer.pre_tokenizer = as_bytes if splits is None else pre_tokenizers.Sequence([splits, as_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(_lines(), trainers.BpeTrainer(
        vocab_size=VOCABULARY - 20, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.add_special_tokens([AddedToken("<tool>", special=True)])
    tokenizer.add_tokens([AddedToken("EDGED", special=False)])
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|im_start|> $A", pair="<|im_start|> $A $B", special_tokens=[("<|im_start|>", 1)])
    return tokenizer


#: How Llama 3, Qwen 2 and SmolLM split text.
LLAMA3 = pre_tokenizers.Split(Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
), behavior="isolated")
QWEN2 = pre_tokenizers.Split(Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
), behavior="isolated")
SMOLLM = pre_tokenizers.Digits(individual_digits=True)


def sentencepiece(*, space: bool) -> Tokenizer:
    """BPE as SentencePiece does it: ▁ for a space, bytes for what has no token. space: one before the text, as Llama 2
    wants it and Gemma does not."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator(_lines(), trainers.BpeTrainer(vocab_size=VOCABULARY - 280, show_progress=False))
    learned = learner.model
    assert isinstance(learned, models.BPE)
    folder_tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    texts = sorted(learner.get_vocab(), key=learner.get_vocab().__getitem__)
    vocabulary = {text: index for index, text in enumerate([*folder_tokens, *texts])}
    tokenizer = Tokenizer(models.BPE(
        vocab=vocabulary, merges=_merges(learner), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    replaced = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replaced]) if space else replaced
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if space else steps)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    return tokenizer


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    import json

    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]


def _lines() -> list[str]:
    return [_TEXT.read_text(), "0 1 2 3 45 678 9012 2024 it's we'll don't\n\n\t  def f(x):\n    return x\n"]
