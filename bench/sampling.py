"""The sampler alone, on logits like a model's, at the vocabularies of today's models: CPU µs of one token."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edged.types import SamplingParams
from edged.worker.logprobs import token_logprobs
from edged.worker.sampler import Sampler

#: SmolLM2, Llama 3, Gemma 3.
VOCABULARIES = (49_152, 128_256, 262_144)
REPEATS = 40
_HOT = 0.8

Draw = Callable[[NDArray[np.float32], int], object]


def _logits(size: int, seed: int) -> NDArray[np.float32]:
    """A few tokens stand out, as they do in text; the rest is near a bell."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2.5, size).astype(np.float32)
    logits[random.choice(size, 40, replace=False)] += np.linspace(12, 4, 40, dtype=np.float32)
    return logits


def _draws(size: int) -> dict[str, Draw]:
    """By what a request asks for."""
    allowed = np.random.default_rng(7).random(size) < 0.02

    def with_params(mask: NDArray[np.bool_] | None = None, **said: object) -> Draw:
        sampler = Sampler(SamplingParams(**said), seed=1, choice=0, prompt=range(500), vocab_size=size)  # type: ignore[arg-type]
        for token in range(300):
            sampler.accept(token * 7)
        return lambda logits, position: sampler.sample(logits, position, mask)

    return {
        "greedy": with_params(temperature=0.0),
        "temperature": with_params(temperature=_HOT),
        "top_k 40": with_params(temperature=_HOT, top_k=40),
        "top_p 0.95": with_params(temperature=_HOT, top_p=0.95),
        "top_p 0.95, temperature 2": with_params(temperature=2.0, top_p=0.95),
        "min_p 0.05": with_params(temperature=_HOT, min_p=0.05),
        "top_k 40, top_p 0.95, min_p 0.05": with_params(temperature=_HOT, top_k=40, top_p=0.95, min_p=0.05),
        "typical_p 0.9": with_params(temperature=_HOT, typical_p=0.9),
        "logit_bias of 300, greedy": with_params(
            temperature=0.0, logit_bias=dict.fromkeys(range(300), 1.0)),
        "penalties, greedy": with_params(
            temperature=0.0, repetition_penalty=1.1, presence_penalty=0.5, frequency_penalty=0.5),
        "penalties, top_p 0.95": with_params(
            temperature=_HOT, top_p=0.95, repetition_penalty=1.1, presence_penalty=0.5, frequency_penalty=0.5),
        "mask, greedy": with_params(allowed, temperature=0.0),
        "mask, temperature": with_params(allowed, temperature=_HOT),
        "mask, top_p 0.95": with_params(allowed, temperature=_HOT, top_p=0.95),
        "logprobs, top 20": lambda logits, position: token_logprobs(logits, position, 20),
    }


def cost_us(draw: Draw, rows: list[NDArray[np.float32]]) -> float:
    """The least of several: what else runs can only add."""
    best = float("inf")
    for _ in range(5):
        began = time.thread_time_ns()
        for position in range(REPEATS):
            draw(rows[position % len(rows)], position)
        best = min(best, (time.thread_time_ns() - began) / REPEATS / 1000)
    return best


def show(out: Console) -> None:
    table = Table("CPU µs a token", *map(str, VOCABULARIES), box=None, header_style="bold")
    columns = []
    for size in VOCABULARIES:
        # More than a core's cache holds of them, since a step has just written its own.
        rows = [_logits(size, seed) for seed in range(8)]
        columns.append({name: cost_us(draw, rows) for name, draw in _draws(size).items()})
    for name in columns[0]:
        table.add_row(name, *(f"{column[name]:.0f}" for column in columns))
    out.print(table)
