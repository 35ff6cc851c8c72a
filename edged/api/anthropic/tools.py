"""`tools` and `tool_choice` of Anthropic's requests. Tools are functions with a JSON Schema; those that Anthropic runs
itself, and those whose schema only its own models know, are refused by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from edged.api.fields import (
    Schema,
    Table,
    Unknown,
    accept,
    boolean,
    choice,
    inert,
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
from edged.api.tools import parameters
from edged.errors import InvalidRequest, UnsupportedParameter
from edged.types import ToolFunction, ToolUse

MAX_TOOLS = 1024
#: `cache_control` marks where Anthropic's cache may cut; edged keeps every prefix by itself.
CACHE_CONTROL = inert(mapping(8))

_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)


@takes({"type": "string", "pattern": f"^{_NAME.pattern}$"})
def _name(value: Any, path: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise wrong(path, "1 to 128 letters, digits, _ or -")
    return value


_example = mapping(1000)


@takes(list_schema(schema_of(_example), range(101)))
def _examples(value: Any, path: str) -> list[dict[str, Any]]:
    return items(value, path, _example, "a list of up to 100 objects", range(101))


_TOOL: Table = {
    "type": served(choice("custom")),
    "name": served(_name, required=True),
    "description": served(text()),
    "input_schema": served(mapping(100_000), required=True),
    "input_examples": served(_examples),
    "strict": served(boolean),
    "cache_control": CACHE_CONTROL,
    # Input is streamed as it is written, in any case.
    "eager_input_streaming": inert(boolean),
    "defer_loading": served(boolean),
    "allowed_callers": later(["direct"], instead="Only the model itself calls tools here."),
}


class Tool(NamedTuple):
    """deferred: not shown to the model before a message refers to it."""

    function: ToolFunction
    deferred: bool


class ToolChange(NamedTuple):
    """What a message says of a tool: it can be called from here on, or no more. at: where it says so."""

    name: str
    offered: bool
    at: str


def offered(tools: list[Tool], changes: Iterable[ToolChange]) -> list[ToolFunction]:
    """The functions that the next answer may call. Raises InvalidRequest where a change names none of them."""
    now = {tool.function.name: not tool.deferred for tool in tools}
    for change in changes:
        if change.name not in now:
            raise InvalidRequest(f"`{change.at}` is {change.name[:64]}, and no tool of `tools` has that name.",
                                 param=change.at)
        now[change.name] = change.offered
    return [tool.function for tool in tools if now[tool.function.name]]


_SOME_TOOLS = range(MAX_TOOLS + 1)


def tools_schema() -> Schema:
    """Of what `tools` takes."""
    return list_schema(object_schema(_TOOL), _SOME_TOOLS)


def tools(value: Any, path: str, unknown: Unknown, ignored: list[str]) -> list[Tool]:
    def check(item: Any, at: str) -> Tool:
        if not isinstance(item, dict):
            raise wrong(at, "an object with name and input_schema")
        kind = item.get("type")
        if isinstance(kind, str) and kind != "custom":
            raise UnsupportedParameter(
                f'`{at}.type` is "{kind[:64]}", which only Anthropic\'s own models and servers know. Send a tool with '
                "a name, a description and an input_schema, and run it in your program.", param=f"{at}.type")
        accepted = accept(_TOOL, item, unknown=unknown, path=at)
        ignored.extend(accepted.ignored)
        return Tool(_function(accepted.values, at), accepted.values.get("defer_loading", False))

    found: list[Tool] = items(value, path, check, f"a list of up to {MAX_TOOLS} tools", _SOME_TOOLS)
    names: set[str] = set()
    for index, (function, _) in enumerate(found):
        if function.name in names:
            raise InvalidRequest(
                f"`{path}[{index}].name`: there are two tools named {function.name}; rename one.",
                param=f"{path}[{index}].name")
        names.add(function.name)
    return found


def _function(said: dict[str, Any], path: str) -> ToolFunction:
    schema = said["input_schema"]
    if said.get("input_examples"):
        # JSON Schema's own place for them, which every template shows.
        schema = schema | {"examples": [*schema.get("examples", []), *said["input_examples"]]}
    return ToolFunction(
        name=said["name"], description=said.get("description", ""),
        parameters=parameters(schema, f"{path}.input_schema"), strict=said.get("strict", False))


class Choice(NamedTuple):
    """kind: as the request says it. name: of `tool`."""

    kind: str = "auto"
    name: str = ""
    parallel: bool = True


_CHOICE: Table = {
    "type": served(choice("auto", "any", "tool", "none"), required=True),
    "name": served(_name),
    "disable_parallel_tool_use": served(boolean),
}


def _choice_schema() -> Schema:
    kinds = ("auto", "any", "none")
    unnamed = {name: field for name, field in _CHOICE.items() if name != "name"}
    named = kind_schema(_CHOICE, "tool") | {"required": ["type", "name"]}
    return {"anyOf": [named, *(kind_schema(unnamed, kind) for kind in kinds)]}


@takes(_choice_schema)
def tool_choice(value: Any, path: str) -> Choice:
    if not isinstance(value, dict):
        raise wrong(path, 'an object like {"type": "auto"}')
    said = accept(_CHOICE, value, unknown="refuse", path=path).values
    if ("name" in said) != (said["type"] == "tool"):
        raise wrong(f"{path}.name", 'the name of a tool where `type` is "tool", and left out otherwise')
    return Choice(said["type"], said.get("name", ""), not said.get("disable_parallel_tool_use", False))


def tool_use(functions: list[ToolFunction], said: Choice) -> ToolUse | None:
    """Raises InvalidRequest where the choice asks for a tool that is not there."""
    if said.kind == "tool" and said.name not in {function.name for function in functions}:
        raise InvalidRequest(
            f"`tool_choice.name` is {said.name}, and no tool of `tools` has that name.", param="tool_choice.name")
    if not functions:
        if said.kind == "any":
            raise InvalidRequest('`tool_choice` is "any" and there are no `tools`; send at least one.',
                                 param="tool_choice")
        return None
    match said.kind:
        case "none":
            return ToolUse(functions=functions, choice="none", parallel=said.parallel)
        case "any":
            return ToolUse(functions=functions, choice="required", parallel=said.parallel)
        case "tool":
            return ToolUse(functions=functions, choice="required", allowed=(said.name,), parallel=said.parallel)
        case _:
            return ToolUse(functions=functions, parallel=said.parallel)
