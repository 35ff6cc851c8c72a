"""Pieces of grammars in llguidance's dialect of Lark, of which families build theirs.

Syntax: llguidance, docs/syntax.md. `%json {…}` is a JSON Schema, `<[7]>` the token 7, a rule with `[lazy]` ends at the
first place where it can.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Any text, however long; never a control token.
TEXT = r"/(.|\n)*/"
#: In one answer: a weak model that has found a call it likes would go on with it to the end of the context.
MAX_CALLS = 32


@dataclass(frozen=True, slots=True)
class Callee:
    """A function that may be called. arguments: the JSON Schema that its arguments are held to."""

    name: str
    arguments: dict[str, Any]


class Spelling:
    """How a model writes its marks: some are one control token, which no text spells. control: their ids."""

    def __init__(self, control: Mapping[str, int] | None = None) -> None:
        self.control = dict(control or {})
        marks = sorted(self.control, key=len, reverse=True)
        self._marks = re.compile("(" + "|".join(map(re.escape, marks)) + ")") if marks else None

    def controls(self, text: str) -> bool:
        """Whether a control token is in it, so that no other text can be it."""
        return any(mark in text for mark in self.control)

    def __call__(self, text: str) -> str:
        """`text` as an expression."""
        parts = self._marks.split(text) if self._marks else [text]
        return " ".join(
            f"<[{self.control[part]}]>" if part in self.control else quoted(part) for part in parts if part
        )


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def json_of(schema: Mapping[str, Any]) -> str:
    return "%json " + json.dumps(schema, ensure_ascii=False)


def json_calls(
    functions: Sequence[Callee], *, arguments: str = "arguments", rule: str = "call"
) -> list[str]:
    """Rules of which `rule` is one call as a JSON object, its name first."""
    rules = [f"{rule}: " + " | ".join(f"{rule}_{index}" for index in range(len(functions)))]
    for index, function in enumerate(functions):
        head = f'{{"name": {quoted(function.name)}, {quoted(arguments)}: '
        rules.append(f'{rule}_{index}: {quoted(head)} {rule}_{index}_arguments "}}"')
        rules.append(f"{rule}_{index}_arguments: {json_of(function.arguments)}")
    return rules


def repeated(call: str, between: str, parallel: bool) -> str:
    """One call, or as many as the model wants, up to MAX_CALLS."""
    return f"{call} ({between} {call}){{0,{MAX_CALLS - 1}}}" if parallel else call
