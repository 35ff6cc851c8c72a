"""POST /v1/completions: one GenerateRequest for each prompt; choice j of prompt i has the index i·n + j."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, HTTPScope, Receive, Send
from msgspec import UNSET, Struct, UnsetType

from edged.api.answering import Call, answer
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
    later,
    served,
    wrong,
)
from edged.api.limits import read_json
from edged.api.logprobs import OldLogprobs, TextLogprobs
from edged.api.request import sampling, usage_wanted
from edged.api.usage import UsageBody, fingerprint, usage_body
from edged.api.wire import OPENAI
from edged.errors import EdgedError, InvalidRequest
from edged.types import (
    ChoiceEnd,
    Delta,
    Event,
    Finished,
    GenerateRequest,
    Prompt,
    TextPrompt,
    TokenPrompt,
    Usage,
)

if TYPE_CHECKING:
    from edged.daemon.status import Served

#: OpenAI's default for this endpoint; chat has none.
DEFAULT_MAX_TOKENS = 16
#: Prompts times n of one request.
MAX_ANSWERS = 128

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


FIELDS: Table = GENERATION | {
    "prompt": served(prompts, required=True),
    "max_tokens": served(integer(0, MAX_TOKENS)),
    "echo": served(boolean),
    "logprobs": served(integer(0, 5)),
    "best_of": later(1),
    "suffix": later(""),
}


def parse(body: dict[str, Any], exchange: Exchange, unknown: Unknown) -> Call:
    """Raises InvalidRequest and its kin, with the path of the field in `param`."""
    said, ignored = accept(FIELDS, body, unknown=unknown)
    n = said.get("n", 1)
    if len(said["prompt"]) * n > MAX_ANSWERS:
        raise InvalidRequest(
            f"{len(said['prompt'])} prompts with {n} choices each are more than {MAX_ANSWERS} answers; "
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
            n=n,
            logprobs=said.get("logprobs"),
            echo=said.get("echo", False),
            adapter=said.get("adapter"),
            client=exchange.caller.client,
        )
        for prompt in said["prompt"]
    ]
    with_usage = usage_wanted(said, ignored)
    head = (f"cmpl-{exchange.request_id}", int(time.time()))
    shape = (n, len(requests), said.get("logprobs") is not None)
    return Call(
        model=said["model"],
        requests=requests,
        stream=said.get("stream", False),
        streamed=partial(CompletionStream, head, shape, with_usage),
        collected=partial(CompletionAnswer, head, shape),
        timeout_s=said.get("timeout_s"),
        keep_alive_s=said.get("keep_alive"),
        ignored=tuple(ignored),
    )


Head = tuple[str, int]
#: Choices for each prompt, prompts, logprobs wanted.
Shape = tuple[int, int, bool]


class Choice(Struct, frozen=True):
    text: str
    index: int
    logprobs: OldLogprobs | None = None
    finish_reason: str | None = None


class Completion(Struct, frozen=True):
    """The answer, and each chunk of a stream."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    object: str = "text_completion"
    usage: UsageBody | UnsetType | None = UNSET


class _Sum:
    """Usage over all prompts."""

    def __init__(self) -> None:
        self.usage = Usage(0, 0)

    def add(self, usage: Usage) -> None:
        self.usage = Usage(
            self.usage.prompt_tokens + usage.prompt_tokens,
            self.usage.completion_tokens + usage.completion_tokens,
            self.usage.cached_tokens + usage.cached_tokens,
        )


class CompletionStream:
    def __init__(self, head: Head, shape: Shape, with_usage: bool, served: Served) -> None:
        self._n, prompts, self._logprobs = shape
        self._begin = (*head, served.name, fingerprint(served))
        self._no_usage: UnsetType | None = None if with_usage else UNSET
        self._offsets = [TextLogprobs() for _ in range(prompts * self._n)]
        self._sum = _Sum()

    def _chunk(self, choice: Choice) -> Completion:
        return Completion(*self._begin, [choice], usage=self._no_usage)

    def chunks(self, prompt: int, event: Event) -> Iterable[Struct]:
        match event:
            case Delta(text=text, logprobs=tokens):
                index = prompt * self._n + event.index
                if text or tokens:
                    logprobs = self._offsets[index].take(tokens) if self._logprobs else None
                    yield self._chunk(Choice(text, index, logprobs))
            case ChoiceEnd(reason=reason):
                yield self._chunk(Choice("", prompt * self._n + event.index, finish_reason=reason))
            case Finished(usage=usage):
                self._sum.add(usage)
            case _:
                pass

    def closing(self) -> Iterator[Struct]:
        if self._no_usage is None:
            yield Completion(*self._begin, [], usage=usage_body(self._sum.usage))

    def failed(self, error: EdgedError) -> Iterator[Struct]:
        yield OPENAI.error(error)


class CompletionAnswer:
    """The chunks of the stream, put together: text, log probabilities and reasons cannot differ from it."""

    def __init__(self, head: Head, shape: Shape, served: Served) -> None:
        n, prompts, self._logprobs = shape
        self._stream = CompletionStream(head, shape, True, served)
        self._begin = (*head, served.name, fingerprint(served))
        self._choices: list[list[Choice]] = [[] for _ in range(prompts * n)]

    def add(self, prompt: int, event: Event) -> None:
        for chunk in self._stream.chunks(prompt, event):
            assert isinstance(chunk, Completion)
            for choice in chunk.choices:
                self._choices[choice.index].append(choice)

    def answer(self) -> Completion:
        choices = [
            Choice(
                "".join(piece.text for piece in pieces), index,
                OldLogprobs.joined([piece.logprobs for piece in pieces if piece.logprobs]) if self._logprobs else None,
                pieces[-1].finish_reason if pieces else None,
            )
            for index, pieces in enumerate(self._choices)
        ]
        (last,) = self._stream.closing()
        assert isinstance(last, Completion)
        return Completion(*self._begin, choices, usage=last.usage)


def routes(services: Services) -> list[HTTPRouteHandler]:
    async def endpoint(scope: HTTPScope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        body = await read_json(scope, receive, services.limits)
        await answer(parse(body, exchange, services.settings.unknown_fields), exchange, services, receive, send)

    @post("/v1/completions", status_code=200)
    async def completions() -> ASGIApp:
        return endpoint  # type: ignore[return-value]

    return [completions]
