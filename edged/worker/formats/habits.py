"""What a chat template does with tools, calls, results and thoughts, learned by trying it: templates differ more than
their texts tell, and a call that one drops without a word would be a silent loss."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, Protocol

Messages = list[dict[str, Any]]


class Try(Protocol):
    def __call__(
        self, messages: Messages, tools: list[dict[str, Any]] | None, kwargs: dict[str, Any], *,
        null_content: bool = False,
    ) -> str | None:
        """The rendered prompt, None where the template refuses or fails."""
        ...


@dataclass(frozen=True, slots=True)
class CallStyle:
    """How a template wants calls of the past. text_arguments: as JSON in a string. null_content: no content is None.
    short_ids: of 9 letters and digits (Mistral)."""

    text_arguments: bool = False
    null_content: bool = False
    short_ids: bool = False


@dataclass(frozen=True, slots=True)
class Habits:
    """tools: under which name it takes them; `message`: as JSON in the system message; None: it shows none. calls:
    None where it shows no calls. several: more than one call in a message. results: messages of role tool are shown.
    system: a system message is. switch: the variable that turns thinking on and off; thinks: what it is without it.
    effort: it knows reasoning_effort. sample: what it makes of a conversation with a call of SAMPLE, "" where it shows
    none."""

    tools: Literal["tools", "xml_tools", "message"] | None = None
    calls: CallStyle | None = None
    several: bool = False
    results: bool = False
    system: bool = True
    switch: Literal["enable_thinking", "thinking"] | None = None
    thinks: bool = False
    effort: bool = False
    sample: str = ""


#: The function that templates are tried with.
SAMPLE = "probe_function"
_KEY, _VALUE, _SAID, _RESULT = "probe_key", "probe-value", "probe-description", "probe-result"
_PARAMETERS = {"type": "object", "properties": {_KEY: {"type": "string", "description": "any"}}, "required": [_KEY]}
_FUNCTION = {"name": SAMPLE, "description": _SAID, "parameters": _PARAMETERS}
_TOOLS: list[dict[str, Any]] = [{"type": "function", "function": _FUNCTION}]
_USER = {"role": "user", "content": "Hello"}
_LONG_IDS, _SHORT_IDS = ("call_0123456789ab", "call_0123456789cd"), ("abcdefgh1", "abcdefgh2")


def learn(attempt: Try) -> Habits:
    """About twenty renderings of a few lines; two, of a template that fails on everything."""
    if attempt([_USER], None, {}) is None and attempt([_USER], _TOOLS, {}) is None:
        return Habits()
    tools = _tools(attempt)
    given = _Given(attempt, tools)
    calls = next((style for style in _STYLES if given.shows_calls(style, 1)), None)
    switch, thinks = _switch(attempt)
    efforts = {attempt([_USER], None, {"reasoning_effort": effort}) for effort in ("low", "high")}
    return Habits(
        tools=tools, calls=calls, several=calls is not None and given.shows_calls(calls, 2),
        results=calls is not None and _RESULT in given(calls, 1),
        system=_SAID in (attempt([{"role": "system", "content": _SAID}, _USER], None, {}) or ""),
        switch=switch, thinks=thinks, effort=len(efforts) == 2, sample="" if calls is None else given(calls, 1),
    )


_STYLES = [CallStyle(*flags) for flags in sorted(product((False, True), repeat=3), key=sum)]


def _tools(attempt: Try) -> Literal["tools", "xml_tools", "message"] | None:
    if _SAID in (attempt([_USER], _TOOLS, {}) or ""):
        return "tools"
    if _SAID in (attempt([_USER], None, {"xml_tools": [_FUNCTION]}) or ""):
        return "xml_tools"
    system = {"role": "system", "content": "", "tools": json.dumps([_FUNCTION])}
    return "message" if _SAID in (attempt([system, _USER], None, {}) or "") else None


class _Given:
    """A conversation with calls, given to the template with tools, where it takes such."""

    def __init__(self, attempt: Try, tools: str | None) -> None:
        self._attempt = attempt
        self._tools = _TOOLS if tools == "tools" else None
        self._kwargs = {"xml_tools": [_FUNCTION]} if tools == "xml_tools" else {}

    def __call__(self, style: CallStyle, count: int) -> str:
        messages = _conversation(style, count)
        return self._attempt(messages, self._tools, self._kwargs, null_content=style.null_content) or ""

    def shows_calls(self, style: CallStyle, count: int) -> bool:
        shown = self(style, count)
        # A dict of Python's is no JSON, and JSON in a JSON string is no object.
        return all(f"{_VALUE}-{number}" in shown for number in range(count)) and not any(
            wrong in shown for wrong in (f"'{_KEY}'", f'\\"{_KEY}'))


def _conversation(style: CallStyle, count: int) -> Messages:
    ids = (_SHORT_IDS if style.short_ids else _LONG_IDS)[:count]
    calls = []
    for number, identity in enumerate(ids):
        arguments = {_KEY: f"{_VALUE}-{number}"}
        calls.append({"id": identity, "type": "function", "function": {
            "name": SAMPLE, "arguments": json.dumps(arguments) if style.text_arguments else arguments}})
    asked = {"role": "assistant", "content": "", "tool_calls": calls}
    results = [{"role": "tool", "tool_call_id": identity, "name": SAMPLE, "content": _RESULT} for identity in ids]
    return [_USER, asked, *results]


def _switch(attempt: Try) -> tuple[Literal["enable_thinking", "thinking"] | None, bool]:
    plain = attempt([_USER], None, {})
    for name in ("enable_thinking", "thinking"):
        on, off = (attempt([_USER], None, {name: value}) for value in (True, False))
        if on is not None and on != off:
            return name, plain == on
    return None, False
