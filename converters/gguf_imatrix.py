"""An importance matrix for llama.cpp: how much each input of each matrix matters, so that rounding errors go where they
do the least harm.

It is what llama.cpp's own tool gathers: for every matrix, the mean of the squares of each of its inputs over the tokens
of a text (llama.cpp, tools/imatrix). That tool is a program that no package brings, so the activations are taken from
transformers, in 32 bits, by a hook on each linear layer. The layer `model.layers.3.mlp.down_proj` is the
tensor `blk.3.ffn_down.weight`, by the names of package `gguf`; reordered rows (query and key of Llama) have the same
inputs. The matrix of the logits is `output.weight`, or `token_embd.weight` where the model has one matrix for both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from converters.calibration import Text
from converters.gguf_families import family_of
from converters.gguf_file import read_config, tensor_names

#: Tokens of one run, and of all; the text that ships has fewer. A text that takes longer than SECONDS is cut.
CHUNK_TOKENS = 512
TOKENS = 32 * CHUNK_TOKENS
SECONDS = 900.0


def measure(folder: Path, text: Text, out: Path, *, progress: Callable[[float, str | None], None]) -> None:
    """out: a safetensors file with one float32 vector for each matrix, by the matrix's name in the GGUF. Memory: the
    model in 32 bits. Raises what `gguf_families.family_of` raises."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    config = read_config(folder)
    names = tensor_names(config, family_of(config))
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False).eval()
    sums: dict[str, Any] = {}

    def add(name: str, inputs: Any) -> None:
        squares = inputs.reshape(-1, inputs.shape[-1]).square().sum(0, dtype=torch.float64)
        sums[name] = sums[name] + squares if name in sums else squares

    for path, module in model.named_modules():
        name = names.get_name(f"{path}.weight", try_suffixes=(".weight",))
        if isinstance(module, torch.nn.Linear) and name is not None and module is not model.get_output_embeddings():
            module.register_forward_pre_hook(lambda _module, args, name=name: add(name, args[0]))
    logits = "token_embd.weight" if config.tie_word_embeddings else "output.weight"

    chunks = list(_chunks(folder, text))
    began, tokens = time.monotonic(), 0
    with torch.inference_mode():
        for number, chunk in enumerate(chunks, 1):
            # The base model alone: logits of a large vocabulary take longer than all else, and only their input counts.
            add(logits, model.base_model(torch.tensor([chunk])).last_hidden_state)
            tokens += len(chunk)
            progress(number / len(chunks), None)
            if time.monotonic() - began > SECONDS and number < len(chunks):
                progress(1.0, f"the importance matrix is of {tokens} tokens: more would take too long here")
                break
    save_file({name: (total / tokens).float() for name, total in sums.items()}, out)


def _chunks(folder: Path, text: Text) -> Iterator[list[int]]:
    """The whole text as one, in runs of CHUNK_TOKENS, each with the beginning token where the tokenizer gives one."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    begin = tokenizer.encode("a", add_special_tokens=True).ids[:1]
    if begin == tokenizer.encode("a", add_special_tokens=False).ids[:1]:
        begin = []
    tokens = tokenizer.encode(text.plain(), add_special_tokens=False).ids[:TOKENS]
    size = CHUNK_TOKENS - len(begin)
    for first in range(0, len(tokens), size):
        yield begin + tokens[first:first + size]
