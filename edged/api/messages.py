"""Chat messages: OpenAI's shape in, the shape a chat template knows out.

Text parts become one string, joined with line breaks as vLLM and llama.cpp join them; `developer` becomes `system`;
what has no meaning for a text model (images, audio, files) is refused under the path of the part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from edged.api.fields import (
    Check,
    Schema,
    Table,
    Unknown,
    accept,
    choice,
    inert,
    items,
    kind_schema,
    later,
    list_schema,
    object_schema,
    schema_of,
    served,
    takes,
    text,
    wrong,
)
from edged.errors import InvalidRequest, MissingParameter, UnsupportedParameter

ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_MESSAGES = 16_384
_TEXT_PARTS = {"text": "text", "refusal": "refusal"}
_PARTS = range(1, 1001)
_CALLS = range(1001)
_OTHER_PARTS = ("image_url", "input_audio", "file", "video_url", "audio_url", "image", "input_image")


def _part_table(key: str) -> Table:
    return {"type": served(text()), key: served(text(), required=True)}


@takes({"anyOf": [
    kind_schema(_part_table(key), kind, said=True) for kind, key in _TEXT_PARTS.items()]})
def _part(value: Any, path: str) -> str:
    if not isinstance(value, dict):
        raise wrong(path, 'an object like {"type": "text", "text": "…"}')
    kind = value.get("type")
    if kind in _OTHER_PARTS:
        raise UnsupportedParameter(
            f"`{path}` is of type \"{kind}\"; the models here read text only. Send parts of type \"text\".", param=path
        )
    if not isinstance(kind, str) or kind not in _TEXT_PARTS:
        raise wrong(f"{path}.type", '"text"')
    key = _TEXT_PARTS[kind]
    return str(accept(_part_table(key), value, unknown="refuse", path=path).values[key])


@takes({"anyOf": [{"type": "string"}, list_schema(schema_of(_part), _PARTS)]})
def content(value: Any, path: str) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise wrong(path, "a string or a list of text parts")
    return "\n".join(items(value, path, _part, "a list of 1 to 1000 text parts", _PARTS))


_FUNCTION: Table = {
    "name": served(text(256, min_length=1), required=True),
    "arguments": served(text(), required=True),
}


@takes(object_schema(_FUNCTION))
def _function(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(path, "an object with name and arguments")
    said = accept(_FUNCTION, value, unknown="refuse", path=path).values
    said["arguments"] = arguments(said["arguments"])
    return said


def arguments(said: str) -> dict[str, Any] | str:
    """OpenAI sends them as JSON in a string; templates want the object (Llama, Qwen). What a model once wrote wrongly
    comes back as it was."""
    try:
        found = msgspec.json.decode(said)
    except msgspec.DecodeError:
        return said
    return found if isinstance(found, dict) and _crosses(found) else said


def arguments_object(said: dict[str, Any]) -> dict[str, Any] | str:
    """Of APIs that send the object itself."""
    return said if _crosses(said) else msgspec.json.encode(said).decode()


def _crosses(found: dict[str, Any]) -> bool:
    """To the worker, as it is. JSON has greater numbers than msgpack, whose end at 64 bits; an object that holds one
    crosses as its text."""
    try:
        msgspec.msgpack.encode(found)
    except OverflowError:
        return False
    return True


_TOOL_CALL: Table = {
    "id": served(text(256, min_length=1), required=True),
    "type": served(choice("function"), required=True),
    "function": served(_function, required=True),
    "index": inert(lambda value, path: value),
}


@takes(object_schema(_TOOL_CALL))
def _tool_call(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(path, "an object with id, type and function")
    return accept(_TOOL_CALL, value, unknown="refuse", path=path).values


@takes(list_schema(schema_of(_tool_call), _CALLS))
def _tool_calls(value: Any, path: str) -> list[dict[str, Any]]:
    return items(value, path, _tool_call, "a list of up to 1000 tool calls", _CALLS)


@takes({"type": "array", "maxItems": 0})
def _empty(value: Any, path: str) -> None:
    if value != []:
        raise wrong(path, "an empty list")


_role = choice(*ROLES)
_COMMON: Table = {"role": served(_role, required=True), "name": served(text(256, min_length=1))}
_CONTENT: Table = {"content": served(content, required=True)}
_TABLES: Mapping[str, Table] = {
    "system": _COMMON | _CONTENT,
    "developer": _COMMON | _CONTENT,
    "user": _COMMON | _CONTENT,
    "tool": _COMMON | _CONTENT | {"tool_call_id": served(text(256, min_length=1), required=True)},
    "assistant": _COMMON | {
        "content": served(content),
        "refusal": served(text()),
        "reasoning_content": served(text()),
        "tool_calls": served(_tool_calls),
        "annotations": inert(_empty),
        "audio": later(),
        "function_call": later(instead="Send it as tool_calls."),
    },
}


def message(unknown: Unknown, ignored: list[str]) -> Check:
    """Names of unknown fields that are only reported go to `ignored`."""

    def check(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise wrong(path, "an object with role and content")
        if value.get("role") is None:
            raise MissingParameter(f"`{path}.role` is missing.", param=f"{path}.role")
        if value["role"] == "function":
            raise UnsupportedParameter(
                f"`{path}.role` \"function\" is not served; send the result as a message of role \"tool\".",
                param=f"{path}.role",
            )
        role = _role(value["role"], f"{path}.role")
        accepted = accept(_TABLES[role], value, unknown=unknown, path=path)
        ignored.extend(accepted.ignored)
        said = accepted.values
        if role == "assistant":
            _complete_assistant(said, path)
        if role == "developer":
            said["role"] = "system"
        return said

    return check


def _complete_assistant(said: dict[str, Any], path: str) -> None:
    """A refusal is what the assistant said; an answer of tool calls alone has no content."""
    refusal = said.pop("refusal", None)
    if not said.get("tool_calls"):
        said.pop("tool_calls", None)
        if "content" not in said:
            if refusal is None:
                raise MissingParameter(f"`{path}` has neither content nor tool_calls.", param=f"{path}.content")
            said["content"] = refusal
    else:
        said.setdefault("content", "")


_MESSAGES = range(1, MAX_MESSAGES + 1)


def messages_schema() -> Schema:
    """Of what `messages` takes."""
    turns = {role: kind_schema(_TABLES[role], role, "role") for role in ROLES}
    turns["assistant"]["anyOf"] = [
        {"required": [name], "properties": {name: {"type": ["string", "array"], "minItems": 1}}}
        for name in ("content", "tool_calls", "refusal")]
    return list_schema({"anyOf": [*turns.values()]}, _MESSAGES)


def messages(value: Any, path: str, unknown: Unknown, ignored: list[str]) -> list[dict[str, Any]]:
    if value == []:
        raise InvalidRequest(f"`{path}` is empty; send at least one message.", param=path)
    return items(value, path, message(unknown, ignored), "a list of messages", _MESSAGES)
