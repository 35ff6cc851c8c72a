"""POST /v1/completions: one GenerateRequest for each prompt; choice j of prompt i has the index i·n + j."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, HTTPScope, Receive, Send

from edged.api.answering import Call, answer
from edged.api.completion_body import BestAnswers, CompletionAnswer, CompletionStream
from edged.api.exchange import Exchange, Services, exchange_of, generation_id
from edged.api.fields import (
    GENERATION,
    MAX_TOKEN,
    MAX_TOKENS,
    Table,
    Unknown,
    accept,
    boolean,
    integer,
    list_schema,
    schema_of,
    served,
    takes,
    text,
    wrong,
)
from edged.api.formats import GRAMMAR, constraint
from edged.api.limits import read_json
from edged.api.request import sampling, usage_wanted
from edged.errors import InvalidRequest
from edged.types import GenerateRequest, Prompt, TextPrompt, TokenPrompt

#: OpenAI's default for this endpoint; chat has none.
DEFAULT_MAX_TOKENS = 16
#: Prompts times choices of one request.
MAX_ANSWERS = 128
#: OpenAI's limit.
MAX_BEST_OF = 20

_EXPECTED = "a string, a list of strings, a list of token ids, or a list of such lists"


def _tokens(value: list[Any], path: str) -> TokenPrompt:
    if not value:
        raise wrong(path, "at least one token id")
    for index, token in enumerate(value):
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token <= MAX_TOKEN:
            raise wrong(f"{path}[{index}]", "a token id")
    return TokenPrompt(value)


def _prompt(value: Any, path: str) -> Prompt:
    if isinstance(value, str):
        return TextPrompt(value)
    if isinstance(value, list):
        return _tokens(value, path)
    raise wrong(path, "a string or a list of token ids")


_TOKENS = {"type": "array", "items": schema_of(integer(0, MAX_TOKEN)), "minItems": 1}


@takes({"anyOf": [
    {"type": "string"}, _TOKENS,
    list_schema({"anyOf": [{"type": "string"}, _TOKENS]}, range(1, MAX_ANSWERS + 1))]})
def prompts(value: Any, path: str) -> list[Prompt]:
    if isinstance(value, str):
        return [TextPrompt(value)]
    if not isinstance(value, list) or not value:
        raise wrong(path, _EXPECTED)
    if isinstance(value[0], str | list):
        if len(value) > MAX_ANSWERS:
            raise wrong(path, f"at most {MAX_ANSWERS} prompts")
        return [_prompt(item, f"{path}[{index}]") for index, item in enumerate(value)]
    return [_tokens(value, path)]


FIELDS: Table = GENERATION | GRAMMAR | {
    "prompt": served(prompts, required=True),
    "max_tokens": served(integer(0, MAX_TOKENS)),
    "echo": served(boolean),
    "logprobs": served(integer(0, 5)),
    "best_of": served(integer(1, MAX_BEST_OF)),
    "suffix": served(text()),
}


def _written(said: dict[str, Any], n: int) -> int:
    """How many choices are written for each prompt, of which n are answered."""
    best_of: int = said.get("best_of", n)
    if best_of < n:
        raise InvalidRequest(f"`best_of` is {best_of}; of fewer than n = {n} choices there is none to leave out.",
                             param="best_of")
    if best_of > n and said.get("stream"):
        raise InvalidRequest("`best_of` above n is known when all choices have ended; it cannot be streamed.",
                             param="best_of")
    return best_of


def _between(said: dict[str, Any]) -> list[Prompt]:
    """The prompts, each with the suffix that its answer is to lead to. An empty one is none."""
    asked: list[Prompt] = said["prompt"]
    if not (suffix := said.get("suffix")):
        return asked
    if said.get("echo"):
        raise InvalidRequest("`echo` goes with no `suffix`: the answer stands between two texts.", param="echo")
    if not all(isinstance(prompt, TextPrompt) for prompt in asked):
        raise InvalidRequest("`suffix` needs prompts of text, not of tokens.", param="suffix")
    return [TextPrompt(prompt.text, suffix) for prompt in asked if isinstance(prompt, TextPrompt)]


def parse(body: dict[str, Any], exchange: Exchange, unknown: Unknown) -> Call:
    """Raises InvalidRequest and its kin, with the path of the field in `param`."""
    said, ignored = accept(FIELDS, body, unknown=unknown)
    n = said.get("n", 1)
    written = _written(said, n)
    if len(said["prompt"]) * written > MAX_ANSWERS:
        raise InvalidRequest(
            f"{len(said['prompt'])} prompts with {written} choices each are more than {MAX_ANSWERS} answers; "
            "send them as several requests.", param="n",
        )
    if said.get("max_tokens") == 0 and not said.get("echo"):
        raise InvalidRequest("`max_tokens` is 0, which only `echo` gives a meaning: a prompt that is scored.",
                             param="max_tokens")
    requests = [
        GenerateRequest(
            id=generation_id(exchange),
            prompt=prompt,
            sampling=sampling(said),
            max_tokens=said.get("max_tokens", DEFAULT_MAX_TOKENS),
            stop=said.get("stop", ()),
            n=written,
            # Of several the best are chosen by them.
            logprobs=said.get("logprobs", 0 if written > n else None),
            echo=said.get("echo", False),
            adapter=said.get("adapter"),
            **constraint(said, ignored),
            client=exchange.caller.client,
        )
        for prompt in _between(said)
    ]
    with_usage = usage_wanted(said, ignored)
    head = (f"cmpl-{exchange.request_id}", int(time.time()))
    shape = (n, len(requests), said.get("logprobs") is not None)
    return Call(
        model=said["model"],
        requests=requests,
        stream=said.get("stream", False),
        streamed=partial(CompletionStream, head, shape, with_usage),
        collected=(partial(BestAnswers, head, shape, written, said.get("echo", False)) if written > n
                   else partial(CompletionAnswer, head, shape)),
        timeout_s=said.get("timeout_s"),
        keep_alive_s=said.get("keep_alive"),
        ignored=tuple(ignored),
    )


def routes(services: Services) -> list[HTTPRouteHandler]:
    async def endpoint(scope: HTTPScope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        body = await read_json(scope, receive, services.limits)
        await answer(parse(body, exchange, services.settings.unknown_fields), exchange, services, receive, send)

    @post("/v1/completions", status_code=200)
    async def completions() -> ASGIApp:
        return endpoint  # type: ignore[return-value]

    return [completions]
