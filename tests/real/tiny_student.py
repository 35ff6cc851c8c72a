"""A student of two layers over synthetic commands, and a teacher of its tokenizer."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch

from training.encode import Encoded, encoded
from training.examples import Example, Message, identity
from training.finetune.stage import save
from training.recipe import Architecture, Student
from training.student import begin

TINY = Architecture(hidden=64, layers=2, heads=2, kv_heads=1, intermediate=128, context=256, vocabulary=400)
ROOMS = ("kitchen", "living room", "garage", "hall")


def command(number: int) -> Example:
    """Synthetic: a command and its slots."""
    drawn = random.Random(number)
    room, degrees = drawn.choice(ROOMS), drawn.randint(10, 29)
    prompt = (Message("user", f"set the {room} to {degrees} degrees"),)
    answer = json.dumps({"room": room, "degrees": degrees}, separators=(",", ":"))
    return Example(id=identity(prompt), prompt=prompt, answer=Message("assistant", answer))


COMMANDS = [command(number) for number in range(64)]


def student(**changes: Any) -> Student:
    return Student(**{"architecture": TINY, "tokenizer": "own", "precision": "fp32", **changes})


def untrained() -> tuple[Any, Any]:
    """The model and its own tokenizer."""
    return begin.from_scratch(student(), COMMANDS, None, 3)


def saved(made: tuple[Any, Any], place: Path) -> Path:
    save(made[0].save_pretrained, made[1], place)
    return place


def teacher_of(model: Any) -> Any:
    """Larger, with strong opinions."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    config = LlamaConfig(**{**model.config.to_dict(), "hidden_size": 96, "num_hidden_layers": 3, "head_dim": 32,
                            "num_attention_heads": 3, "num_key_value_heads": 3, "initializer_range": 0.25})
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def rows(tokenizer: Any, examples: list[Example]) -> list[Encoded]:
    return [encoded(tokenizer, example, completion_only=True) for example in examples]
