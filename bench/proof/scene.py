"""A scene: one thing that is asked of every side in the same way, and the figures that come of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.rounds import Side
from bench.workloads import CONTROL_TOKENS, FORBIDDEN, text, words

#: Numbers of prompts that one round of one scene may use; those of two scenes or rounds never meet.
PROMPTS_A_ROUND = 500
_ROUNDS = 20


@dataclass(frozen=True)
class Sizes:
    """Lengths in tokens, counts otherwise. `FULL` is what is measured, `QUICK` proves the harness.

    stream: prompt and answer of each of `streams`; long_stream: the same with longer prompts. system: a prompt that
    `clients` share, each with words of its own. turn_words: what an agent is told in each turn. long_prompt: beside
    running streams. foreign_s: how long a rate is measured beside foreign threads. models: in the catalog.
    """

    decode_prompt: int = 64
    decode_answer: int = 128
    prefill: int = 1024
    streams: int = 8
    stream: tuple[int, int] = (32, 128)
    long_stream: tuple[int, int] = (256, 128)
    system: int = 1000
    clients: int = 8
    agents: int = 4
    turns: int = 10
    turn_words: int = 48
    turn_answer: int = 24
    long_prompt: int = 3000
    beside_answer: int = 320
    foreign_s: float = 6.0
    models: int = 24
    fake_streams: int = 64
    fake_answer: int = 400


FULL = Sizes()
QUICK = Sizes(
    decode_prompt=32, decode_answer=16, prefill=128, streams=4, stream=(16, 12), long_stream=(48, 12), system=160,
    clients=4, agents=2, turns=3, turn_answer=8, long_prompt=400, beside_answer=40, foreign_s=1.0, models=5,
    fake_streams=16, fake_answer=50,
)


@dataclass(frozen=True)
class Found:
    """What one round of a scene gave for one side. notes: what a reader must know, each said once."""

    figures: dict[str, float]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ask:
    """What a scene's measuring is given. number: of its first prompt; the round's own."""

    sizes: Sizes
    number: int


@dataclass(frozen=True)
class Scene:
    """about: one line for the report. sides: names in `sides`. rounds: in a whole run. bodies: all that is asked in a
    round, for the digest; `measure` asks exactly these."""

    name: str
    about: str
    sides: tuple[str, ...]
    measure: Callable[[Side, Ask], Found]
    bodies: Callable[[Ask], Sequence[Any]]
    rounds: int = 3
    notes: tuple[str, ...] = field(default=())

    def ask(self, sizes: Sizes, turn: int, place: int) -> Ask:
        """place: of this scene among all scenes."""
        return Ask(sizes, (place * _ROUNDS + turn) * PROMPTS_A_ROUND)


def chat(
    model: str, system: str, said: str, answer_tokens: int, *, stream: bool = True, **fields: Any,
) -> dict[str, Any]:
    """Greedy, and exactly `answer_tokens` long unless `fields` bring another end."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": said}]
    return {"model": model, "messages": messages, **forced(answer_tokens, stream=stream), **fields}


def forced(answer_tokens: int, *, stream: bool = True) -> dict[str, Any]:
    """Fields of an answer of exactly that length: greedy, with ending tokens forbidden."""
    said: dict[str, Any] = {
        "max_tokens": answer_tokens, "temperature": 0,
        "logit_bias": {str(token): FORBIDDEN for token in CONTROL_TOKENS},
    }
    return said | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})


def prose(number: int, tokens: int) -> str:
    return text(words(number, tokens))
