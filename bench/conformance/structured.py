"""Structured output, grammars and tools: what comes out is held against what was asked for."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema

from bench.conformance.outcome import Broken, Silent, check, expect
from bench.conformance.server import Server, content

AREA = "/v1/chat/completions"
PATH = "/v1/chat/completions"
CITY = "Describe a city as JSON."
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "enum": ["Paris", "Rome"]},
        "size": {"type": "integer", "minimum": 1000, "maximum": 9999},
        "kinds": {"type": "array", "items": {"$ref": "#/$defs/kind"}, "minItems": 2, "maxItems": 2},
    },
    "$defs": {"kind": {"anyOf": [{"const": "old"}, {"const": "big"}]}},
    "required": ["name", "size", "kinds"], "additionalProperties": False,
}
#: Nobody can compile them, or they hold a keyword that grammars do not know: each is to be refused, or held to.
AWKWARD: dict[str, dict[str, Any]] = {
    "a reference to nowhere": {"type": "object", "properties": {"a": {"$ref": "#/$defs/gone"}}, "required": ["a"]},
    "a type that there is not": {"type": "strin"},
    "a pattern with look-ahead": {"type": "object", "required": ["a"], "properties": {
        "a": {"type": "string", "pattern": "^(?=.*x)(?=.*7).{4}$"}}, "additionalProperties": False},
    "not": {"type": "object", "required": ["a"], "additionalProperties": False, "properties": {
        "a": {"not": {"type": ["string", "object", "array", "boolean", "null"]}}}},
    "uniqueItems": {"type": "array", "items": {"enum": ["x", "y"]}, "minItems": 2, "maxItems": 2, "uniqueItems": True},
    "if, then": {"type": "object", "properties": {"a": {"const": "x"}, "b": {"enum": [1, 2]}}, "required": ["a", "b"],
                 "additionalProperties": False, "if": {"properties": {"a": {"const": "x"}}},
                 "then": {"properties": {"b": {"const": 2}}}},
}


def as_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": schema}}


def parsed(answer: Any) -> Any:
    """Raises Silent where it is no JSON, unless `length` cut it."""
    text = content(answer)
    try:
        return json.loads(text)
    except ValueError:
        if answer["choices"][0]["finish_reason"] == "length":
            raise Broken("still no whole value after all tokens") from None
        raise Silent(f"no JSON: {text[:80]!r}") from None


def holds(value: Any, schema: dict[str, Any]) -> None:
    try:
        jsonschema.validate(value, schema, cls=jsonschema.Draft202012Validator)
    except jsonschema.ValidationError as error:
        raise Silent(f"the answer breaks the schema: {error.message[:80]}") from None
    except Exception as error:
        raise Silent(f"answered {str(value)[:40]!r} for a schema that is none ({type(error).__name__})") from None


@check(AREA, "response_format: json_object")
def json_object(server: Server) -> None:
    # Whitespace that never ends is JSON too, so the answer gets room.
    answer = server.chat("response_format", said="Name one fruit as JSON.", max_tokens=200,
                         response_format={"type": "json_object"})
    expect(isinstance(parsed(answer), dict), "no object")


@check(AREA, "response_format: json_schema")
def json_schema(server: Server) -> None:
    answer = server.chat("response_format", "schema", said=CITY, max_tokens=200, response_format=as_schema(SCHEMA))
    holds(parsed(answer), SCHEMA)


@check(AREA, "response_format: json_schema, streamed")
def json_schema_streamed(server: Server) -> None:
    text = server.streamed("response_format", "schema", said=CITY, max_tokens=200, response_format=as_schema(SCHEMA))
    holds(json.loads(text), SCHEMA)


@check(AREA, "response_format: json_schema, at temperature 2")
def json_schema_hot(server: Server) -> None:
    for seed in (1, 2, 3):
        answer = server.chat("response_format", "schema", said=CITY, max_tokens=200, temperature=2, seed=seed,
                             response_format=as_schema(SCHEMA))
        holds(parsed(answer), SCHEMA)


def awkward(name: str, schema: dict[str, Any]) -> None:
    @check(AREA, f"response_format: a schema with {name}")
    def held_or_refused(server: Server) -> str:
        answer = server.chat("schema", "response_format", "grammar", "ref", "type", "pattern", "not", "uniqueItems",
                             "if", said="Answer in JSON.", max_tokens=100, response_format=as_schema(schema))
        holds(parsed(answer), schema)
        return "held to"


for _name, _schema in AWKWARD.items():
    awkward(_name, _schema)


@check(AREA, "response_format: a type that there is not")
def unknown_format(server: Server) -> None:
    server.refusal(PATH, server.chat_body(response_format={"type": "yaml"}), "response_format", "type")


GRAMMARS = {
    "regex": (r"[A-C]{3}-[0-9]{2}", r"[A-C]{3}-[0-9]{2}"),
    "lark": ('start: "yes" | "no"\n', "yes|no"),
    "gbnf": ('root ::= "left" | "right"\n', "left|right"),
}


def grammar(kind: str, value: str, pattern: str) -> None:
    @check(AREA, f"grammar: {kind}", own=True)
    def matches(server: Server) -> None:
        text = server.text("grammar", grammar={"type": kind, "value": value})
        expect(re.fullmatch(pattern, text), f"{text[:40]!r} does not match {pattern}")


for _kind, (_value, _pattern) in GRAMMARS.items():
    grammar(_kind, _value, _pattern)


WEATHER: dict[str, Any] = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather of a city", "strict": True,
    "parameters": {"type": "object", "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
                   "required": ["city"], "additionalProperties": False}}}
CLOCK: dict[str, Any] = {"type": "function", "function": {
    "name": "get_time", "description": "The time of a city", "strict": True,
    "parameters": {"type": "object", "properties": {"zone": {"type": "string", "enum": ["UTC", "CET"]}},
                   "required": ["zone"], "additionalProperties": False}}}
TOOLS = [WEATHER, CLOCK]
ASKED = "What is the weather in Paris?"


def calls(answer: Any) -> list[dict[str, Any]]:
    """Of one answer; each must be of a tool that was given, with arguments that fit. The last of several may be cut."""
    found = answer["choices"][0]["message"].get("tool_calls") or []
    if answer["choices"][0]["finish_reason"] == "length":
        if len(found) < 2:
            raise Broken("no whole call within the tokens")
        found = found[:-1]
    for call in found:
        tool = next((one for one in TOOLS if one["function"]["name"] == call["function"]["name"]), None)
        expect(tool, f"a call of {call['function']['name']}, which there is not")
        assert tool is not None
        holds(json.loads(call["function"]["arguments"]), tool["function"]["parameters"])
    return list(found)


def with_tools(server: Server, choice: Any, **fields: Any) -> Any:
    said = {"said": ASKED, "max_tokens": 250, "tools": TOOLS, "tool_choice": choice} | fields
    return server.chat("tool", **said)


@check(AREA, "tools reach the model")
def tools_shown(server: Server) -> None:
    without = server.chat(said=ASKED, max_tokens=1)["usage"]["prompt_tokens"]
    shown = with_tools(server, "auto", max_tokens=1)["usage"]["prompt_tokens"]
    expect(shown > without + 20, f"the prompt grows by {shown - without} tokens with two tools")


@check(AREA, "tool_choice: auto")
def tool_auto(server: Server) -> str:
    answer = with_tools(server, "auto")
    called = bool(answer["choices"][0]["message"].get("tool_calls"))
    return f"{len(calls(answer))} calls" if called else "no call"


@check(AREA, "tool_choice: none")
def tool_none(server: Server) -> None:
    called = with_tools(server, "none")["choices"][0]["message"].get("tool_calls")
    expect(not called, "a call though none was allowed")


@check(AREA, "tool_choice: required")
def tool_required(server: Server) -> None:
    for seed in (1, 2):
        answer = with_tools(server, "required", temperature=1.5, seed=seed, parallel_tool_calls=False)
        expect(calls(answer), f"no call: {content(answer)[:60]!r}")
        expect(answer["choices"][0]["finish_reason"] == "tool_calls",
               f"finish_reason {answer['choices'][0]['finish_reason']}")


@check(AREA, "tool_choice: a named function")
def tool_named(server: Server) -> None:
    answer = with_tools(server, {"type": "function", "function": {"name": "get_time"}})
    names = {call["function"]["name"] for call in calls(answer)}
    expect(names == {"get_time"}, f"calls {sorted(names)}, content {content(answer)[:40]!r}")


@check(AREA, "tool_choice: allowed_tools")
def tool_allowed(server: Server) -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "get_time"}}]}
    answer = with_tools(server, {"type": "allowed_tools", "allowed_tools": allowed})
    names = {call["function"]["name"] for call in calls(answer)}
    expect(names == {"get_time"}, f"calls {sorted(names)}")


@check(AREA, "tool_choice: one that is not among the tools")
def tool_unknown(server: Server) -> None:
    body = server.chat_body(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "get_gold"}})
    server.refusal(PATH, body, "tool_choice", "get_gold")


@check(AREA, "parallel_tool_calls: false")
def one_call(server: Server) -> None:
    for seed in (1, 2):
        found = calls(with_tools(server, "required", parallel_tool_calls=False, temperature=1.5, seed=seed))
        expect(len(found) == 1, f"{len(found)} calls")


@check(AREA, "tool calls, streamed")
def tool_streamed(server: Server) -> None:
    chunks = server.chunks("tool", said=ASKED, max_tokens=250, tools=TOOLS, parallel_tool_calls=False, tool_choice={
        "type": "function", "function": {"name": "get_weather"}})
    pieces = [piece for chunk in chunks for choice in chunk["choices"]
              for piece in choice["delta"].get("tool_calls") or []]
    expect(pieces, "no pieces of a call")
    expect(pieces[0].get("id") and pieces[0]["function"].get("name") == "get_weather",
           "the first piece has no id or name")
    arguments = "".join(piece["function"].get("arguments") or "" for piece in pieces if piece["index"] == 0)
    holds(json.loads(arguments), WEATHER["function"]["parameters"])
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    expect(reasons == ["tool_calls"], f"finish_reason {reasons}")
