"""What is asked of an OpenAI-compatible endpoint and what comes back, as values: bodies of `POST /chat/completions`,
whole answers and streams of chunks. No I/O; `training.endpoint` sends them."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from training.data.messages import compact
from training.examples import Message
from training.reply import Reply, TokenChoice


class Ask(Struct, frozen=True, kw_only=True):
    """One answer that is asked for. logprobs: alternatives wanted a token, 0: no log probabilities. schema: a JSON
    Schema that the endpoint is to hold the answer to. adapter: of edged, by name. stream: the answer comes in pieces,
    so that the time of its first one is known."""

    messages: tuple[Message, ...]
    max_tokens: int
    tools: tuple[dict[str, Any], ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    logprobs: int = 0
    schema: dict[str, Any] | None = None
    adapter: str | None = None
    stream: bool = False


class NotAnAnswer(Exception):
    """The endpoint sent something else than the form asks for; says what."""


class StreamError(Exception):
    """The endpoint told an error in the middle of a stream, or as if it were a whole answer (proxies do)."""


def openai_message(message: Message) -> dict[str, Any]:
    """As OpenAI's API and chat templates of Hugging Face read it."""
    said: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        said["content"] = message.content or None
        said["tool_calls"] = list(message.tool_calls)
    if message.tool_call_id is not None:
        said["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        said["name"] = message.name
    return said


def body_of(ask: Ask, model: str, *, limit_key: str) -> dict[str, Any]:
    """limit_key: how the endpoint calls the most tokens of an answer; the older name is `max_tokens`."""
    body: dict[str, Any] = {
        "model": model, "messages": [openai_message(message) for message in ask.messages], limit_key: ask.max_tokens,
        "temperature": ask.temperature, "top_p": ask.top_p,
    }
    if ask.tools:
        body["tools"] = list(ask.tools)
    if ask.seed is not None:
        body["seed"] = ask.seed
    if ask.logprobs:
        body |= {"logprobs": True, "top_logprobs": ask.logprobs}
    if ask.schema is not None:
        body["response_format"] = {
            "type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": ask.schema}}
    if ask.adapter is not None:
        body["adapter"] = ask.adapter
    if ask.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


class _Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Likely(Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None

    def text(self) -> str:
        """A token that is a part of a character is told by its bytes (`bytes:\\xe2\\x82`), as OpenAI does elsewhere."""
        try:
            raw = bytes(self.bytes) if self.bytes is not None else b""
            raw.decode()
        except (UnicodeDecodeError, ValueError):
            return "bytes:" + "".join(f"\\x{byte & 255:02x}" for byte in self.bytes or ())
        return self.token


class _Token(_Likely):
    top_logprobs: list[_Likely] = []

    def choice(self) -> TokenChoice:
        return TokenChoice(self.text(), self.logprob, tuple((one.text(), one.logprob) for one in self.top_logprobs))


class _Logprobs(Struct):
    content: list[_Token] | None = None

    def choices(self) -> tuple[TokenChoice, ...] | None:
        return tuple(token.choice() for token in self.content) if self.content is not None else None


class _Said(Struct):
    content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    reasoning_content: str | None = None


class _Choice(Struct):
    message: _Said | None = None
    delta: _Said | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Body(Struct):
    """error: of any shape; its presence is what counts."""

    model: str | None = None
    choices: tuple[_Choice, ...] = ()
    usage: _Usage | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Body)


def reply_of(data: bytes, seconds: float) -> Reply:
    """Of a whole answer. Raises NotAnAnswer and StreamError."""
    body = _decoded(data)
    if body.error is not None:
        raise StreamError(told_error(body.error))
    if not body.choices or body.choices[0].message is None:
        raise NotAnAnswer("its answer has no choices with a message")
    choice, said = body.choices[0], body.choices[0].message
    usage = body.usage or _Usage()
    return Reply(
        message=Message("assistant", said.content or "", tuple(map(_with_text, said.tool_calls or ()))),
        finish_reason=choice.finish_reason, prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens, logprobs=choice.logprobs.choices() if choice.logprobs else None,
        seconds=seconds, served=body.model)


class Joined:
    """A stream's chunks, put together to what the whole answer would have been."""

    def __init__(self) -> None:
        self._content: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._logprobs: tuple[TokenChoice, ...] | None = None
        self._usage = _Usage()
        self._model: str | None = None
        self._finish_reason: str | None = None
        self._ended = False

    def take(self, line: str) -> bool:
        """One line of the stream; True where it holds a piece of the answer. Raises NotAnAnswer and StreamError."""
        if not line.startswith("data:"):
            return False
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            self._ended = True
            return False
        body = _decoded(data.encode())
        if body.error is not None:
            raise StreamError(told_error(body.error))
        self._usage = body.usage or self._usage
        self._model = body.model or self._model
        return bool(body.choices) and self._piece(body.choices[0])

    def reply(self, seconds: float, first_token_s: float | None) -> Reply:
        """Raises StreamError where the stream broke off."""
        if not self._ended and self._finish_reason is None:
            raise StreamError("it broke off in the middle of an answer")
        calls = tuple(self._calls[index] for index in sorted(self._calls))
        return Reply(
            message=Message("assistant", "".join(self._content), calls), finish_reason=self._finish_reason,
            prompt_tokens=self._usage.prompt_tokens, completion_tokens=self._usage.completion_tokens,
            logprobs=self._logprobs, seconds=seconds, first_token_s=first_token_s, served=self._model)

    def _piece(self, choice: _Choice) -> bool:
        said = choice.delta or _Said()
        self._finish_reason = choice.finish_reason or self._finish_reason
        if said.content:
            self._content.append(said.content)
        for piece in said.tool_calls or ():
            self._call(piece)
        if choice.logprobs is not None and (told := choice.logprobs.choices()) is not None:
            self._logprobs = (*(self._logprobs or ()), *told)
        return bool(said.content or said.tool_calls or said.reasoning_content)

    def _call(self, piece: dict[str, Any]) -> None:
        """The first piece of a call has its id and name; arguments come in any number of pieces."""
        call = self._calls.setdefault(
            int(piece.get("index", len(self._calls))),
            {"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
        call["id"] = piece.get("id") or call["id"]
        function = piece.get("function") or {}
        call["function"]["name"] = function.get("name") or call["function"]["name"]
        if (arguments := function.get("arguments")) is not None:
            call["function"]["arguments"] += arguments if isinstance(arguments, str) else compact(arguments)


def _with_text(call: dict[str, Any]) -> dict[str, Any]:
    """Arguments are the text of their JSON; some endpoints send them as an object, or none."""
    function = call.get("function")
    if not isinstance(function, dict) or isinstance(arguments := function.get("arguments"), str):
        return call
    return {**call, "function": {**function, "arguments": compact(arguments if arguments is not None else {})}}


def told_error(error: object) -> str:
    """The message of an error object, in whichever of the usual shapes."""
    if isinstance(error, dict):
        said = error.get("message") or error.get("detail") or error.get("error") or error.get("code")
        return told_error(said) if said is not None else "an error without a message"
    return str(error)[:1000]


def error_in(data: bytes) -> str:
    """What the body of a refusal says, at most a thousand characters."""
    try:
        return told_error(msgspec.json.decode(data))
    except msgspec.DecodeError:
        return data.decode("utf-8", "replace").strip()[:1000] or "no reason given"


def wants_other_limit(status: int, said: str, sent_key: str) -> bool:
    """OpenAI's newer models refuse `max_tokens` and name its successor."""
    return status == 400 and sent_key == "max_tokens" and "max_completion_tokens" in said


def _decoded(data: bytes) -> _Body:
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise NotAnAnswer(f"its answer is not as OpenAI writes them ({error})") from None
