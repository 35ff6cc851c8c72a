"""Ollama's messages in, the shape a chat template knows out (`edged.types.ChatPrompt`).

Ollama's calls have arguments as an object and often no id; the result of a call names its function, or stands in the
order of the calls. Here each call gets an id, and each result the id of the call that it answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edged.api.fields import (
    Check,
    Schema,
    Table,
    Unknown,
    accept,
    choice,
    inert,
    integer,
    items,
    kind_schema,
    later,
    list_schema,
    mapping,
    object_schema,
    schema_of,
    served,
    takes,
    text,
    wrong,
)
from edged.api.messages import MAX_MESSAGES, arguments_object
from edged.errors import MissingParameter

_NO_IMAGES = "The models here read text only."
_name = text(256, min_length=1)


_FUNCTION: Table = {
    "name": served(_name, required=True),
    "arguments": served(mapping(10_000), required=True),
    "index": inert(integer(0, 2**31 - 1)),
}


@takes(object_schema(_FUNCTION))
def _function(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(path, "an object with name and arguments")
    return accept(_FUNCTION, value, unknown="refuse", path=path).values


_CALL: Table = {
    "function": served(_function, required=True),
    "id": served(text(256)),
    "type": served(choice("function")),
}


@takes(object_schema(_CALL))
def _call(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(path, 'an object like {"function": {"name": "…", "arguments": {}}}')
    return accept(_CALL, value, unknown="refuse", path=path).values


_SOME_CALLS = range(1001)


@takes(list_schema(schema_of(_call), _SOME_CALLS))
def _calls(value: Any, path: str) -> list[dict[str, Any]]:
    return items(value, path, _call, "a list of up to 1000 tool calls", _SOME_CALLS)


_role = choice("system", "user", "assistant", "tool")
_COMMON: Table = {
    "role": served(_role, required=True), "content": served(text()), "images": later([], instead=_NO_IMAGES),
}
#: Clients that keep every message in one class send these empty.
_EMPTY: Table = {"thinking": later(""), "tool_calls": later([]), "tool_name": later(""), "tool_call_id": later("")}
_TABLES: Mapping[str, Table] = {
    "system": _COMMON | _EMPTY,
    "user": _COMMON | _EMPTY,
    "assistant": _COMMON | _EMPTY | {"thinking": served(text()), "tool_calls": served(_calls)},
    "tool": _COMMON | _EMPTY | {"tool_name": served(text(256)), "tool_call_id": served(text(256)),
                                "name": served(text(256))},
}


def _message(unknown: Unknown, ignored: list[str]) -> Check:
    def check(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise wrong(path, "an object with role and content")
        if value.get("role") is None:
            raise MissingParameter(f"`{path}.role` is missing.", param=f"{path}.role")
        role = _role(value["role"], f"{path}.role")
        accepted = accept(_TABLES[role], value, unknown=unknown, path=path)
        ignored.extend(accepted.ignored)
        said = accepted.values
        if "content" not in said and not said.get("tool_calls") and not said.get("thinking"):
            raise MissingParameter(f"`{path}.content` is missing.", param=f"{path}.content")
        return said

    return check


_SOME_MESSAGES = range(MAX_MESSAGES + 1)


def messages_schema() -> Schema:
    """Of what `messages` takes."""
    return list_schema({"anyOf": [kind_schema(table, role, "role") for role, table in _TABLES.items()]}, _SOME_MESSAGES)


def messages(value: Any, path: str, unknown: Unknown, ignored: list[str]) -> list[dict[str, Any]]:
    """Empty for a request that only loads. Names of unknown fields that are only reported go to `ignored`."""
    said = items(value, path, _message(unknown, ignored), "a list of messages", _SOME_MESSAGES)
    calls = _Calls()
    return [calls.shaped(message) for message in said]


class _Calls:
    """The calls of a conversation that no result has answered yet, oldest first: (id, function)."""

    def __init__(self) -> None:
        self._number = 0
        self._open: list[tuple[str, str]] = []

    def shaped(self, said: dict[str, Any]) -> dict[str, Any]:
        role = said["role"]
        shaped: dict[str, Any] = {"role": role, "content": said.get("content", "")}
        if role == "assistant":
            if said.get("thinking"):
                shaped["reasoning_content"] = said["thinking"]
            if said.get("tool_calls"):
                shaped["tool_calls"] = [self._made(call) for call in said["tool_calls"]]
        elif role == "tool":
            function = said.get("tool_name") or said.get("name") or ""
            identity, function = self._answered(said.get("tool_call_id", ""), function)
            shaped["tool_call_id"] = identity
            if function:
                shaped["name"] = function
        return shaped

    def _fresh(self) -> str:
        self._number += 1
        return f"call_{self._number}"

    def _made(self, call: dict[str, Any]) -> dict[str, Any]:
        identity, function = call.get("id") or self._fresh(), call["function"]
        self._open.append((identity, function["name"]))
        return {"id": identity, "type": "function",
                "function": {"name": function["name"], "arguments": arguments_object(function["arguments"])}}

    def _answered(self, identity: str, function: str) -> tuple[str, str]:
        """By id, else the oldest open call of that function, else the oldest; one of its own where there is none."""
        for number, (opened, name) in enumerate(self._open):
            if (opened == identity) if identity else (not function or name == function):
                del self._open[number]
                return opened, function or name
        return identity or self._fresh(), function
