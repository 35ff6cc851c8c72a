"""Synthetic examples that a tiny model learns in a few steps."""

from __future__ import annotations

from training.examples import Example, Message, identity


def number(value: int, weight: float = 1.0) -> Example:
    prompt = (Message(role="user", content=f"say number {value}" + " please" * (value % 5)),)
    return Example(id=identity(prompt), prompt=prompt, weight=weight,
                   answer=Message(role="assistant", content=f"the number is {value % 10}"))


def numbers(first: int, end: int) -> list[Example]:
    return [number(value) for value in range(first, end)]
