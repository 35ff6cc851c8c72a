"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's body in, one GenerateRequest out, its events rendered in
Anthropic's shapes.

Fields as in package `anthropic` 2.14, those of its betas too, and those that older versions had.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, HTTPScope, Receive, Send
from msgspec import Struct

from edged.api import chat
from edged.api.answering import Call, answer
from edged.api.anthropic.messages import Reader, messages_schema, system_schema
from edged.api.anthropic.render import MessageAnswer, MessageStream, Shape
from edged.api.anthropic.thinking import effort, reasoning, thinking
from edged.api.anthropic.tools import (
    CACHE_CONTROL,
    Choice,
    offered,
    tool_choice,
    tool_use,
    tools,
    tools_schema,
)
from edged.api.exchange import Exchange, Services, exchange_of, generation_id
from edged.api.fields import (
    MAX_TOKENS,
    SAMPLING,
    Accepted,
    Check,
    Schema,
    Table,
    Unknown,
    accept,
    choice,
    inert,
    integer,
    items,
    later,
    list_schema,
    mapping,
    number,
    record,
    schema_of,
    served,
    stop,
    takes,
    text,
    wrong,
)
from edged.api.limits import header, read_json
from edged.api.request import sampling
from edged.api.tokens import prompt_only
from edged.errors import InvalidRequest, UnsupportedParameter
from edged.types import ChatPrompt, Constraint, GenerateRequest, JsonSchema


def _unread(schema: Callable[[], Schema]) -> Check:
    """What is unknown in it is known to `parse`, which reads it."""

    @takes(schema)
    def check(value: Any, path: str) -> Any:
        return value

    return check


@takes({"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 1024}, "maxItems": 16})
def _stop_sequences(value: Any, path: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise wrong(path, "a list of up to 16 strings")
    return stop(value, path)


_members = mapping(100_000)


@takes(schema_of(_members))
def _schema(value: Any, path: str) -> Constraint:
    return JsonSchema(msgspec.json.encode(_members(value, path)).decode())


_FORMAT: Table = {"type": served(choice("json_schema"), required=True), "schema": served(_schema, required=True)}
_OUTPUT: Table = {"effort": served(effort), "format": served(record(_FORMAT)), "task_budget": later()}
_DIAGNOSTICS: Table = {"previous_message_id": served(text(256))}


_KEEPS_ALL = ("all", {"type": "all"})


@takes({"type": "object", "properties": {
    "type": {"const": "clear_thinking_20251015"}, "keep": {"enum": [*_KEEPS_ALL]},
}, "required": ["type", "keep"], "additionalProperties": False})
def _edit(value: Any, path: str) -> None:
    """Of what Anthropic would clear away from the conversation, the one edit that clears nothing."""
    if not isinstance(value, dict) or not isinstance(kind := value.get("type"), str):
        raise wrong(path, "an object with a type")
    keeps_all = value.get("keep") in _KEEPS_ALL
    if kind != "clear_thinking_20251015" or not keeps_all or value.keys() - {"type", "keep"}:
        raise UnsupportedParameter(
            f"`{path}` ({kind[:64]}) is not served: edged clears nothing of a conversation. Leave the edit out, and "
            "what the model is not to read.", param=path)


@takes(list_schema(schema_of(_edit), range(101)))
def _edits(value: Any, path: str) -> None:
    items(value, path, _edit, "a list of up to 100 edits", range(101))


@takes({"not": {}})
def _thread(value: Any, path: str) -> None:
    """The code makes the official client's tool runner go on with whole conversations by itself."""
    raise UnsupportedParameter(f"`{path}` is not served. Send the whole conversation in `messages`.", param=path,
                               code="thread_unsupported_request")


_CONTEXT_MANAGEMENT: Table = {"edits": inert(_edits)}

FIELDS: Table = SAMPLING | {name: chat.FIELDS[name] for name in (
    "model", "stream", "chat_template_kwargs", "adapter", "timeout_s", "keep_alive")} | {
    "messages": served(_unread(messages_schema), required=True),
    # 0: the prompt is read and its prefix kept, nothing is answered.
    "max_tokens": served(integer(0, MAX_TOKENS), required=True),
    "system": served(_unread(system_schema)),
    "stop_sequences": served(_stop_sequences),
    "temperature": served(number(0, 1)),
    "tools": served(_unread(tools_schema)),
    "tool_choice": served(tool_choice),
    "thinking": served(thinking),
    "output_config": served(record(_OUTPUT)),
    "output_format": served(record(_FORMAT)),
    "diagnostics": served(record(_DIAGNOSTICS)),
    "context_management": served(record(_CONTEXT_MANAGEMENT)),
    "metadata": inert(mapping(16)),
    "service_tier": inert(choice("auto", "standard_only")),
    "cache_control": CACHE_CONTROL,
    "billing_policy": inert(mapping(16)),
    "user_profile_id": inert(text(256)),
    "workspace_id": inert(text(256)),
    "speed": later("standard", instead="Every request gets all the speed there is."),
    "inference_geo": later("global", instead="The answer is computed on the machine that runs edged."),
    "container": later(),
    "mcp_servers": later([], instead="Call MCP servers in your program and send their tools in `tools`."),
    "compaction": later(instead="Ask for a summary in the messages."),
    "fallbacks": later([], "default", instead="Name the model that is to answer in `model`."),
    "fallback_credit_token": later(),
    "thread": served(_thread),
}

_ONLY_OF_ANSWERS = {"max_tokens", "stop_sequences", "stream", "adapter", "diagnostics", "service_tier", *SAMPLING}
#: Of a request that is only counted.
COUNTED: Table = {name: field for name, field in FIELDS.items() if name not in _ONLY_OF_ANSWERS}


def parse(body: dict[str, Any], exchange: Exchange, unknown: Unknown, table: Table = FIELDS) -> Call:
    """Raises InvalidRequest and its kin, with the path of the field in `param`."""
    said, ignored = accept(table, body, unknown=unknown)
    reader = Reader(unknown, ignored)
    told = [] if "system" not in said else [{"role": "system", "content": reader.system(said["system"], "system")}]
    told += reader.messages(said["messages"], "messages")
    continued = told[-1]["role"] == "assistant"
    max_tokens = said.get("max_tokens")
    wanted = said.get("thinking")
    output = _output(said, ignored)
    constraint = _constraint(said, output)
    if continued and (constraint or (wanted is not None and wanted.kind == "enabled")):
        raise InvalidRequest(
            "`messages` ends with the assistant's, so the answer goes on in the middle of a text: leave `thinking` and "
            "the format of the answer out, or end with a message of the user.", param="messages")
    if "effort" in output and wanted is not None and wanted.kind == "disabled":
        ignored.append("output_config.effort")
    functions = offered(tools(said.get("tools", []), "tools", unknown, ignored), reader.changes)
    request = GenerateRequest(
        id=generation_id(exchange),
        prompt=ChatPrompt(
            messages=told, template_kwargs=said.get("chat_template_kwargs", {}), continued=continued),
        sampling=sampling(said),
        max_tokens=max_tokens,
        # Programs for Anthropic ask for as much as its models could write; the answer says why it ended.
        to_context_end=True,
        stop=said.get("stop_sequences", ()),
        **constraint,
        tools=tool_use(functions, said.get("tool_choice", Choice())),
        reasoning=reasoning(wanted, output.get("effort"), max_tokens),
        adapter=said.get("adapter"),
        client=exchange.caller.client,
    )
    shape = Shape(f"msg_{exchange.request_id}", max_tokens or 0, wanted is None or wanted.shown, "diagnostics" in said)
    return Call(
        model=said["model"],
        requests=[request],
        stream=said.get("stream", False),
        streamed=partial(MessageStream, shape, exchange.wire),
        collected=partial(MessageAnswer, shape, exchange.wire),
        timeout_s=said.get("timeout_s"),
        keep_alive_s=said.get("keep_alive"),
        ignored=_told_once(ignored),
    )


def _output(said: dict[str, Any], ignored: list[str]) -> dict[str, Any]:
    nested: Accepted | None
    for name in ("output_config", "output_format", "diagnostics", "context_management"):
        if (nested := said.get(name)) is not None:
            ignored.extend(nested.ignored)
    return said["output_config"].values if "output_config" in said else {}


def _constraint(said: dict[str, Any], output: dict[str, Any]) -> dict[str, Any]:
    """The fields of a GenerateRequest that say it. `output_format` is what `output_config.format` was called before."""
    if "output_format" in said and "format" in output:
        raise InvalidRequest("`output_format` and `output_config.format` are the same; send the second one only.",
                             param="output_format")
    for path, form in (("output_config.format", output.get("format")), ("output_format", said.get("output_format"))):
        if form is not None:
            return {"constraint": form.values["schema"], "constraint_field": f"{path}.schema"}
    return {}


def _told_once(ignored: list[str]) -> tuple[str, ...]:
    """`cache_control` stands at many blocks."""
    return tuple(dict.fromkeys(
        "cache_control" if name.endswith(".cache_control") else name for name in ignored))


class TokensCount(Struct, frozen=True):
    input_tokens: int


def parse_count(body: dict[str, Any], exchange: Exchange, unknown: Unknown) -> Call:
    """The prompt that /v1/messages would make of the same fields, counted by the model's own template and tokenizer."""
    return prompt_only(parse(body, exchange, unknown, COUNTED), lambda model, prompt: TokensCount(len(prompt.tokens)))


def routes(services: Services) -> list[HTTPRouteHandler]:
    def route(path: str, parse: Callable[[dict[str, Any], Exchange, Unknown], Call]) -> HTTPRouteHandler:
        async def endpoint(scope: HTTPScope, receive: Receive, send: Send) -> None:
            exchange = exchange_of(scope)
            body = await read_json(scope, receive, services.limits)
            call = parse(body, exchange, services.settings.unknown_fields)
            if header(scope, b"anthropic-beta"):
                # What a beta changes is asked for in fields, and these are served or refused one by one.
                call = replace(call, ignored=(*call.ignored, "anthropic-beta"))
            await answer(call, exchange, services, receive, send)

        @post(path, status_code=200)
        async def handler() -> ASGIApp:
            return endpoint  # type: ignore[return-value]

        return handler

    return [route("/v1/messages", parse), route("/v1/messages/count_tokens", parse_count)]
