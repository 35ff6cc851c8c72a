"""What a teacher's answer to a command must be to be learned from: the validator of student.toml.

A model that has learned the commands of one house sometimes corrects a word that it does not know to one that it does,
or leaves it out. Both can be seen without knowing the right answer: names and things are copied, so every one stands in
the command, and a word that is no part of how commands are put is part of a name or thing.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

COMMANDS = Path(__file__).parent / "data" / "commands.jsonl"
#: Values of these are not copied as they stand.
WRITTEN_ANEW = ("do", "day", "time")
NUMBERS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"""


def copied(prompt: list[dict[str, Any]], answer: dict[str, Any]) -> str | None:
    """None, or what is wrong with it. prompt, answer: as OpenAI writes messages; the answer's text is JSON."""
    return wrong_with(prompt[-1]["content"], json.loads(answer["content"]), _usual_words())


def wrong_with(command: str, said: object, usual: frozenset[str]) -> str | None:
    if not isinstance(said, dict):
        return "no object"
    inside = command[:1].lower() + command[1:]
    for key, value in said.items():
        if isinstance(value, str) and key not in WRITTEN_ANEW and not re.search(
                rf"(?<!\w){re.escape(value)}(?!\w)", f"{command}\n{inside}"):
            return f"{value!r} is not in the command"
    left_out = _words(command) - usual - _words_of_values(said)
    return f"{sorted(left_out)[0]!r} is left out" if left_out else None


@functools.cache
def _usual_words() -> frozenset[str]:
    """Numbers, and words that some command of the training data has outside of its names and things."""
    rows = [json.loads(line) for line in COMMANDS.read_text(encoding="utf-8").splitlines()]
    return frozenset(_words(NUMBERS)).union(
        *(_words(row["command"]) - _words_of_values(json.loads(row["json"])) for row in rows))


def _words_of_values(said: dict[str, Any]) -> set[str]:
    return set().union(*(_words(value) for key, value in said.items() if isinstance(value, str) and key != "do"))


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))
