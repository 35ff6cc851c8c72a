"""The student before it has learned anything: its weights, its tokenizer and its chat template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edged.errors import ConversionFailed
from training.examples import Example
from training.recipe import Student
from training.student import initial, shape

SCRATCH = "scratch"


def from_scratch(said: Student, examples: Sequence[Example], teacher: Path | None, seed: int) -> tuple[Any, Any]:
    """A llama of the recipe's sizes with random weights, and its tokenizer. examples: what an own tokenizer is trained
    on; teacher: where it has none of its own, the Hugging Face folder whose tokenizer it gets, with as many rows of
    embeddings, so that their logits compare. The same arguments give the same student. Raises CorruptFile."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    if teacher is None:
        from training.student.tokenizer import train_tokenizer

        tokenizer = train_tokenizer(examples, said.architecture.vocabulary)
        rows, ends = len(tokenizer), [tokenizer.eos_token_id]
    else:
        from converters.gguf_file import read_config
        from training.models import tokenizer_of

        tokenizer = tokenizer_of(teacher)
        rows, ends = read_config(teacher).vocab_size, _ends(teacher, tokenizer)
    special = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id,
               "eos_token_id": ends[0] if len(ends) == 1 else ends}
    model = LlamaForCausalLM(LlamaConfig(**shape.llama(said.architecture, rows), **special))
    initial.draw(model, seed)
    model.generation_config = GenerationConfig(**special, do_sample=False)
    return model, tokenizer


def from_model(folder: Path) -> tuple[Any, Any]:
    """folder: a Hugging Face folder. Raises ConversionFailed where transformers cannot load it."""
    import torch
    from transformers import AutoModelForCausalLM

    from converters.quiet import quietly
    from training.models import tokenizer_of

    try:
        with quietly():
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, use_safetensors=True)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ConversionFailed(f"transformers cannot load the model to start from: {str(error)[:300]}") from error
    return model, tokenizer_of(folder)


def _ends(teacher: Path, tokenizer: Any) -> list[int]:
    """What ends an answer of the teacher."""
    from transformers import GenerationConfig

    try:
        said = GenerationConfig.from_pretrained(teacher, local_files_only=True).eos_token_id
    except OSError:
        said = None
    ends = said if isinstance(said, list) else [said]
    return [end for end in ends if isinstance(end, int)] or [tokenizer.eos_token_id]
