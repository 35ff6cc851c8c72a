"""POST /v1/chat/completions: OpenAI's body in, one GenerateRequest out, its events rendered in OpenAI's shapes."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, HTTPScope, Receive, Send

from edged.api.answering import Call, answer
from edged.api.chat_body import ChatAnswer, ChatStream, Wanted
from edged.api.exchange import Exchange, Services, exchange_of, generation_id
from edged.api.fields import (
    GENERATION,
    MAX_TOKENS,
    Table,
    Unknown,
    accept,
    boolean,
    inert,
    integer,
    later,
    mapping,
    served,
    takes,
    text,
    wrong,
)
from edged.api.formats import RESPONSE_FORMAT, constraint
from edged.api.limits import read_json
from edged.api.messages import messages, messages_schema
from edged.api.request import max_tokens, sampling, top_logprobs, usage_wanted
from edged.api.tools import TOOL_FIELDS, reasoning, tool_use
from edged.types import ChatPrompt, GenerateRequest

#: Names that the rendering of a template sets itself.
_RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt", "continue_final_message",
                       "chat_template", "bos_token", "eos_token", "unk_token", "pad_token"})


_SHORT = {"anyOf": [{"type": "string", "maxLength": 1000}, {"type": ["number", "boolean", "null"]}],
          "description": "Whole numbers of at most 64 bits."}


@takes({"type": "object", "maxProperties": 32, "additionalProperties": _SHORT,
        "propertyNames": {"maxLength": 64, "not": {"enum": sorted(_RESERVED)}}})
def template_kwargs(value: Any, path: str) -> dict[str, Any]:
    for name, item in mapping(32)(value, path).items():
        at = f"{path}.{name}"
        if not name.isidentifier() or len(name) > 64 or name in _RESERVED:
            raise wrong(at[:200], "left out: a template does not take that name from a request")
        if not isinstance(item, str | int | float | bool | None) or (isinstance(item, str) and len(item) > 1000):
            raise wrong(at[:200], "a short string, a number, true, false or null")
        if isinstance(item, int) and not -(2**63) <= item < 2**63:
            raise wrong(at[:200], "a number of at most 64 bits")
    return dict(value)


@takes(messages_schema)
def _unread(value: Any, path: str) -> Any:
    """What is unknown in them is known to `parse`, which reads them."""
    return value


FIELDS: Table = GENERATION | RESPONSE_FORMAT | TOOL_FIELDS | {
    "messages": served(_unread, required=True),
    "max_completion_tokens": served(integer(1, MAX_TOKENS)),
    "logprobs": served(boolean),
    "top_logprobs": served(integer(0, 20)),
    "chat_template_kwargs": served(template_kwargs),
    # OpenAI's meaning is to keep it for distillation, which here is the operator's to say; false is the client's no.
    "store": served(boolean),
    "metadata": inert(mapping(16)),
    "prompt_cache_retention": inert(text()),
    "functions": later([], instead="Send them as `tools`."),
    "function_call": later("none", "auto", instead="Send it as `tool_choice`."),
    "modalities": later(["text"]),
    "audio": later(),
    "prediction": later(),
    "verbosity": later("medium"),
    "web_search_options": later(),
}


def parse(body: dict[str, Any], exchange: Exchange, unknown: Unknown) -> Call:
    """Raises InvalidRequest and its kin, with the path of the field in `param`."""
    said, ignored = accept(FIELDS, body, unknown=unknown)
    prompt = ChatPrompt(
        messages=messages(said["messages"], "messages", unknown, ignored),
        template_kwargs=said.get("chat_template_kwargs", {}),
    )
    if said.get("store"):
        ignored.append("store")
    request = GenerateRequest(
        id=generation_id(exchange),
        prompt=prompt,
        sampling=sampling(said),
        max_tokens=max_tokens(said),
        stop=said.get("stop", ()),
        n=said.get("n", 1),
        logprobs=top_logprobs(said),
        tools=tool_use(said),
        reasoning=reasoning(said),
        adapter=said.get("adapter"),
        **constraint(said, ignored),
        client=exchange.caller.client,
        capture=said.get("store") is not False,
    )
    wanted = Wanted(
        n=request.n, logprobs=request.logprobs is not None, usage=usage_wanted(said, ignored),
        may_call=request.tools is not None and request.tools.choice != "none",
    )
    head = (f"chatcmpl-{exchange.request_id}", int(time.time()))
    return Call(
        model=said["model"],
        requests=[request],
        stream=said.get("stream", False),
        streamed=partial(ChatStream, head, wanted),
        collected=partial(ChatAnswer, head, wanted),
        timeout_s=said.get("timeout_s"),
        keep_alive_s=said.get("keep_alive"),
        ignored=tuple(ignored),
    )


def routes(services: Services) -> list[HTTPRouteHandler]:
    async def endpoint(scope: HTTPScope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        body = await read_json(scope, receive, services.limits)
        await answer(parse(body, exchange, services.settings.unknown_fields), exchange, services, receive, send)

    @post("/v1/chat/completions", status_code=200)
    async def chat_completions() -> ASGIApp:
        return endpoint  # type: ignore[return-value]

    return [chat_completions]
