"""A random Llama of two layers with a tokenizer trained on the spot, as a Hugging Face folder and as the ONNX folder
that onnxruntime-genai's builder makes of it (fp32). Seconds, no download."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import torch
from onnxruntime_genai.models import builder
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_hf(folder: Path, *, special: Sequence[str] = ()) -> Path:
    """Returns the folder, with config.json, model.safetensors and the tokenizer's files. special: more special tokens,
    from 512 on."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    first = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=first, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([(Path(__file__).parents[2] / "LICENSE").read_text()], trainer)
    tokenizer.add_special_tokens(list(special))
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>")
    wrapped.chat_template = TEMPLATE
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=512 + len(special), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, initializer_range=0.2,
    )
    model = LlamaForCausalLM(config).eval()
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


def make_onnx(hf: Path, folder: Path, **extra: str) -> Path:
    """onnxruntime-genai's builder at fp32 for CPU. extra: its `extra_options`, such as prune_lm_head="true"."""
    with redirect_stdout(io.StringIO()):
        options = builder.parse_extra_options(
            "", str(hf), str(folder), "fp32", "cpu", str(folder / "cache"), [f"{k}={v}" for k, v in extra.items()])
        builder.create_model("", str(hf), str(folder), "fp32", "cpu", str(folder / "cache"), **options)
    return folder
