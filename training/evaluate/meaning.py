"""What two answers are compared by: their text, or the JSON value that they stand for."""

from __future__ import annotations

from typing import Any

import msgspec

from training.examples import Message


class NoJson(Exception):
    """The answer is none. Nothing is lost by it: a metric counts it."""


def text_of(message: Message) -> str:
    """The content, and below it the calls as JSON, keys in order: two equal calls are one text."""
    lines = [message.content.strip(), *(_canonical(call) for call in _calls(message))]
    return "\n".join(line for line in lines if line)


def value_of(message: Message) -> Any:
    """Of an answer with calls: the calls in order, whatever it says beside them. Else of the whole content. Raises
    NoJson, also for arguments that are no JSON."""
    if message.tool_calls:
        return [{"name": call["name"], "arguments": _decoded(call["arguments"])} for call in _calls(message)]
    return _decoded(message.content)


def is_structured(message: Message) -> bool:
    """Whether the answer is calls, an object or a list: a number or a word between quotes is rather a text."""
    try:
        return isinstance(value_of(message), dict | list)
    except NoJson:
        return False


def same(one: Any, other: Any) -> bool:
    """As JSON values: members in any order, 1 is 1.0, and true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def words(text: str) -> str:
    """White space counts as one blank, and none at the ends."""
    return " ".join(text.split())


def label_of(text: str) -> str:
    """A class by its name, whatever the case, with a full stop or without."""
    return words(text).removesuffix(".").casefold()


def _calls(message: Message) -> list[dict[str, str]]:
    found = []
    for call in message.tool_calls:
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        arguments = function.get("arguments", "")
        found.append({
            "name": str(function.get("name", "")),
            "arguments": arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()})
    return found


def _canonical(call: dict[str, str]) -> str:
    try:
        arguments = _decoded(call["arguments"])
    except NoJson:
        arguments = call["arguments"]
    return msgspec.json.encode({"name": call["name"], "arguments": arguments}, order="sorted").decode()


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise NoJson(str(error)) from None
