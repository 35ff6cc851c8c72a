"""FunctionGemma and Gemma 4: a notation of their own, in which strings stand between marks and keys are bare.

    <start_function_call>call:weather{city:<escape>Tokyo<escape>,days:3}<end_function_call>
    <|tool_call>call:weather{city:<|"|>Tokyo<|"|>,days:3}<tool_call|>

Source: Google, "FunctionGemma formatting and best practices"; the chat template of google/gemma-4-31B-it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from edged.worker.formats.family import CallGrammar, Family
from edged.worker.formats.gemma_schema import Notation
from edged.worker.formats.lark import Callee, Spelling, quoted, repeated
from edged.worker.formats.parts import CallMachine, Marks, Parts


@dataclass(frozen=True, slots=True)
class Dialect:
    opening: str
    closing: str
    quote: str


FUNCTION_DIALECT = Dialect("<start_function_call>", "<end_function_call>", "<escape>")
GEMMA4_DIALECT = Dialect("<|tool_call>", "<tool_call|>", '<|"|>')


class GemmaCalls(CallMachine):
    """Turns the notation into JSON as it comes. Scalars that are no JSON become strings."""

    def __init__(self, dialect: Dialect) -> None:
        super().__init__()
        self._opening = Marks(dialect.opening)
        self._quote = Marks(dialect.quote)
        self._dialect = dialect
        self._between = Marks(dialect.opening, dialect.closing)
        self._head = ""
        self._brackets: list[str] = []
        self._scalar = ""
        self._fresh = True  # nothing stands in the innermost bracket yet
        self._state: Callable[[str, Parts], None] = self._words

    @property
    def calling(self) -> bool:
        return self._state != self._words

    @property
    def held(self) -> int:
        return (self._opening.held + self._quote.held + self._between.held + len(self._head) + len(self._space)
                + len(self._scalar))

    def finish(self) -> Parts:
        parts = Parts()
        if self._state == self._words:
            self._say(self._opening.flush(), parts)
        elif self._state == self._naming:
            self._fail(parts)
        elif self._state == self._string:
            self._show(json.dumps(self._quote.flush(), ensure_ascii=False)[1:-1], parts)
        elif self._state == self._value:
            self._show(self._scalar + self._quote.flush(), parts)
        return self._rest(parts)

    def _words(self, character: str, parts: Parts) -> None:
        text, mark = self._opening.push(character)
        self._say(text, parts)
        if mark:
            self._head, self._state = mark, self._naming

    def _naming(self, character: str, parts: Parts) -> None:
        self._head += character
        begun = self._head.removeprefix(self._dialect.opening).lstrip()
        if character == "{" and begun.startswith("call:") and begun[5:-1].strip():
            self._head = self._space = ""
            parts.add_call(self._calls.begin(begun[5:-1].strip()))
            self._brackets, self._fresh, self._scalar = ["{"], True, ""
            self._show("{", parts)
            self._state = self._key
        elif not ("call:".startswith(begun) or begun.startswith("call:")) or len(begun) > 400:
            self._fail(parts)

    def _key(self, character: str, parts: Parts) -> None:
        """Up to its colon; a nested key may stand between quotes, and white space around it."""
        if character == "}" and not self._scalar.strip():
            self._close(parts)
        elif character == ":":
            key = self._scalar.strip()
            key = key.removeprefix(self._dialect.quote).removesuffix(self._dialect.quote)
            self._comma(parts)
            self._show(json.dumps(key, ensure_ascii=False) + ": ", parts)
            self._scalar, self._state = "", self._value
        elif character != "," or self._scalar.strip():
            self._scalar += character

    def _value(self, character: str, parts: Parts) -> None:
        text, mark = self._quote.push(character)
        for one in text:
            (self._bare if self._state == self._value else self._state)(one, parts)
        if mark:
            self._item(parts)
            self._show('"', parts)
            self._scalar, self._state = "", self._string

    def _string(self, character: str, parts: Parts) -> None:
        text, mark = self._quote.push(character)
        if text:
            self._show(json.dumps(text, ensure_ascii=False)[1:-1], parts)
        if mark:
            self._show('"', parts)
            self._state = self._next

    def _bare(self, character: str, parts: Parts) -> None:
        if character in "{[" and not self._scalar.strip():
            self._item(parts)
            self._brackets.append(character)
            self._show(character, parts)
            self._fresh, self._scalar = True, ""
            self._state = self._key if character == "{" else self._value
        elif character in ",}]":
            if self._scalar.strip():
                self._item(parts)
                self._show(_scalar(self._scalar.strip()), parts)
            self._scalar, self._state = "", self._next
            self._next(character, parts)
        else:
            self._scalar += character

    def _next(self, character: str, parts: Parts) -> None:
        """After a value."""
        if character in "}]":
            self._close(parts)
        elif character == ",":
            self._state = self._key if self._brackets[-1] == "{" else self._value

    def _item(self, parts: Parts) -> None:
        """Before a value: items of a list have their comma here, members had it before their key."""
        if self._brackets[-1] == "[":
            self._comma(parts)

    def _comma(self, parts: Parts) -> None:
        if not self._fresh:
            self._show(", ", parts)
        self._fresh = False

    def _close(self, parts: Parts) -> None:
        self._show("}" if self._brackets.pop() == "{" else "]", parts)
        self._fresh, self._scalar = False, ""
        self._state = self._next if self._brackets else self._after

    def _after(self, character: str, parts: Parts) -> None:
        text, mark = self._between.push(character)
        if text.strip():
            self._state = self._words
            self._say(text, parts)
        if mark == self._dialect.opening:
            self._head, self._state = mark, self._naming
        elif mark and self._state == self._words:
            self._say(mark, parts)

    def _show(self, arguments: str, parts: Parts) -> None:
        if arguments:
            parts.add_call(self._calls.more(arguments))

    def _fail(self, parts: Parts) -> None:
        raw, self._head = self._head, ""
        self._state = self._words
        self._say(raw, parts)


def _scalar(text: str) -> str:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return json.dumps(text, ensure_ascii=False)
    return text if text not in ("NaN", "Infinity", "-Infinity") else json.dumps(text)


def grammar(
    functions: Sequence[Callee], *, parallel: bool, spell: Spelling, dialect: Dialect
) -> CallGrammar:
    notation = Notation(spell, dialect.quote)
    rules = ["one: " + " | ".join(f"one_{index}" for index in range(len(functions)))]
    for index, function in enumerate(functions):
        arguments = notation.object(function.arguments)
        rules.append(f"one_{index}: {quoted('call:' + function.name)} {arguments} {spell(dialect.closing)}")
    return CallGrammar(repeated("one", spell(dialect.opening), parallel), [*rules, *notation.rules])


def write(name: str, arguments: str, *, dialect: Dialect) -> str:
    return f"{dialect.opening}call:{name}{_written(json.loads(arguments), dialect)}{dialect.closing}"


def _written(value: Any, dialect: Dialect) -> str:
    match value:
        case str():
            return f"{dialect.quote}{value}{dialect.quote}"
        case dict():
            return "{" + ",".join(f"{key}:{_written(item, dialect)}" for key, item in sorted(value.items())) + "}"
        case list():
            return "[" + ",".join(_written(item, dialect) for item in value) + "]"
        case _:
            return json.dumps(value)


def _family(name: str, dialect: Dialect) -> Family:
    return Family(
        name=name, signs=(dialect.opening,), marks=(dialect.opening, dialect.closing, dialect.quote),
        trigger=dialect.opening, parser=lambda names: GemmaCalls(dialect), grammar=partial(grammar, dialect=dialect),
        write=partial(write, dialect=dialect),
    )


FUNCTION_GEMMA = _family("functiongemma", FUNCTION_DIALECT)
GEMMA4 = _family("gemma4", GEMMA4_DIALECT)
