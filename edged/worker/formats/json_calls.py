"""Calls that are written as JSON objects with a name and arguments, read while they come."""

from __future__ import annotations

import json

from edged.worker.formats.parts import Calls, Parts

_NAMES = ("name",)
#: Llama and Gemma's prompts say parameters, the others arguments.
_ARGUMENTS = ("arguments", "parameters")


class JsonCall:
    """One object like {"name": "f", "arguments": {…}}, its keys in any order, others passed over.

    The arguments go out as they come, once the name is known. An object that ends without a name is no call: `raw` is
    its text, for whoever shows it instead. Arguments in a JSON string are taken out of it; null and none are {}.
    names: any other name is none.
    """

    def __init__(self, calls: Calls, names: frozenset[str] | None = None) -> None:
        self._calls = calls
        self._names = names
        self.raw = ""
        self.named = False
        self.done = False
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._key: str | None = None
        self._token = ""
        self._waiting = ""  # arguments that came before the name
        self._streams = False  # the value that comes is an object of arguments
        self._any_arguments = False

    def push(self, character: str, parts: Parts) -> None:
        """The first character is the brace that opens the object."""
        if not self.named:
            self.raw += character
        if self._in_string:
            self._value(character, parts)
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == '"':
                self._in_string = False
            return
        if character == '"':
            self._in_string = True
        elif character in "{[":
            self._depth += 1
            if self._depth == 1:
                return
            if self._depth == 2 and character == "{" and self._key in _ARGUMENTS and not self._token.strip():
                self._streams, self._token = True, ""
        elif character in "}]":
            self._depth -= 1
            if self._depth == 0:
                self._end_value(parts)
                self.done = True
                if self.named and not self._any_arguments:
                    parts.add_call(self._calls.more("{}"))
                return
        elif self._depth == 1 and character == ":" and self._key is None:
            self._key, self._token = _text(self._token), ""
            return
        elif self._depth == 1 and character == ",":
            self._end_value(parts)
            return
        self._value(character, parts)

    def finish(self, parts: Parts) -> str:
        """The text was cut within the object. Returns what of it is no call."""
        if not self.named:
            return self.raw
        if self._key in _ARGUMENTS and not self._streams and self._token.strip():
            self._show(self._token, parts)
        return ""

    def _value(self, character: str, parts: Parts) -> None:
        if not self._streams:
            self._token += character
        elif self._depth > 1 or character == "}":
            self._show(character, parts)

    def _end_value(self, parts: Parts) -> None:
        token, key = self._token.strip(), self._key
        streamed, self._streams = self._streams, False
        self._token, self._key = "", None
        if key in _NAMES and not self.named:
            name = _text(token)
            if name and (self._names is None or name in self._names):
                self.named = True
                parts.add_call(self._calls.begin(name))
                waiting, self._waiting = self._waiting, ""
                if waiting:
                    self._show(waiting, parts)
        elif key in _ARGUMENTS and not streamed and token and token != "null":
            self._show(_text(token) or token, parts)

    def _show(self, arguments: str, parts: Parts) -> None:
        if not self.named:
            self._waiting += arguments
            return
        self._any_arguments = True
        parts.add_call(self._calls.more(arguments))


def _text(token: str) -> str | None:
    try:
        found = json.loads(token, strict=False)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, str) else None
