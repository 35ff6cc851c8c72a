"""The likelihood of an expected answer under a served model: `POST /completions` with `echo` and `logprobs`, which
computes a prompt and tells the log-probability of each of its tokens (OpenAI's legacy form; edged, vLLM and llama.cpp's
server have it, most services have it no more).

Prompt and answer are sent as token ids, as the model's own tokenizer and chat template make them, so that the very
tokens are scored that `training.local_model` scores.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import httpx
import msgspec
from msgspec import Struct

from edged.errors import InvalidRequest, SourceUnavailable
from training.chat_wire import error_in
from training.encode import NO_LOSS, Encoded, encoded
from training.endpoint import (
    ATTEMPTS,
    LONGEST_WAIT_S,
    checked_url,
    key_header,
    on_this_machine,
    passes,
    retry_after_s,
)
from training.evaluate.subject import Subject
from training.examples import Example
from training.local_model import Likelihood

_TIMEOUT_S = 600.0
_NOT_IMPLEMENTED = 501
#: Of a prompt, such as one that is longer than the model's context, and not of the endpoint as a whole.
_OF_PROMPT = (400, 413, 422)


class CannotScore(Exception):
    """The subject tells no likelihoods; says why. Perplexity is then not told, and the report says so."""


class PromptRefused(CannotScore):
    """At least one of the prompts is refused; others may be scored alone."""


class _Logprobs(Struct):
    tokens: list[str]
    token_logprobs: list[float | None]


class _Choice(Struct):
    index: int = 0
    logprobs: _Logprobs | None = None


class _Body(Struct):
    choices: list[_Choice]


class Scorer:
    """Context manager. tokenizer: of transformers, the served model's own. backoff_s: the first wait after a failure
    that may pass, each further one is twice as long."""

    def __init__(self, subject: Subject, tokenizer: Any, *, backoff_s: float = 0.5) -> None:
        """Raises ConfigError, as `Endpoint` does."""
        assert subject.base_url is not None
        self._subject = subject
        self._tokenizer = tokenizer
        self._special = set(tokenizer.all_special_ids)
        self._backoff_s = backoff_s
        url = checked_url(subject.base_url)
        self._client = httpx.Client(headers=key_header(subject.api_key_env), timeout=_TIMEOUT_S,
                                    trust_env=not on_this_machine(url))

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._client.close()

    def likelihoods(self, examples: Sequence[Example]) -> list[Likelihood]:
        """Raises PromptRefused, CannotScore where the endpoint does not do this, SourceUnavailable where it does not
        answer, or is too busy, after several attempts."""
        try:
            items = [encoded(self._tokenizer, example, completion_only=True) for example in examples]
        except InvalidRequest as error:
            raise PromptRefused(error.message) from error
        choices = self._completions([item.input_ids for item in items])
        if len(choices) != len(items):
            raise CannotScore(f"the endpoint answers {len(items)} prompts with {len(choices)} choices")
        return [self._of(item, choice) for item, choice in zip(items, choices, strict=True)]

    def _completions(self, prompts: list[list[int]]) -> list[_Choice]:
        body: dict[str, Any] = {"model": self._subject.model, "prompt": prompts, "max_tokens": 0, "echo": True,
                                "logprobs": 1, "temperature": 0.0}
        if self._subject.served_adapter is not None:
            body["adapter"] = self._subject.served_adapter
        base_url = str(self._subject.base_url).rstrip("/")
        response = self._response(base_url, body)
        if response.is_error:
            kind = PromptRefused if response.status_code in _OF_PROMPT else CannotScore
            raise kind(f"{base_url}/completions with echo is refused: {error_in(response.content)}")
        try:
            choices = msgspec.json.decode(response.content, type=_Body).choices
        except msgspec.MsgspecError as error:
            raise CannotScore(f"{base_url}/completions does not answer in OpenAI's form ({error})") from error
        return sorted(choices, key=lambda choice: choice.index)

    def _response(self, base_url: str, body: dict[str, Any]) -> httpx.Response:
        """Of the first attempt whose failure does not pass by itself, or that does not fail."""
        for attempt in itertools.count(1):
            wait_s = self._backoff_s * 2 ** (attempt - 1)
            try:
                response = self._client.post(f"{base_url}/completions", json=body)
            except httpx.HTTPError as error:
                why = str(error) or type(error).__name__
            else:
                if not passes(response) or response.status_code == _NOT_IMPLEMENTED:
                    return response
                why = f"{response.status_code}: {error_in(response.content)}"
                wait_s = max(wait_s, retry_after_s(response.headers.get("retry-after")))
            if attempt == ATTEMPTS or wait_s > LONGEST_WAIT_S:
                raise SourceUnavailable(f"{base_url}/completions does not answer ({why}); see that it runs, then run "
                                        "the stage again, or name evaluate.metrics without perplexity")
            time.sleep(wait_s)
        raise AssertionError("unreachable")

    def _of(self, item: Encoded, choice: _Choice) -> Likelihood:
        told = choice.logprobs
        if told is None or len(told.token_logprobs) != len(item.input_ids) or len(told.tokens) != len(item.input_ids):
            raise CannotScore("the endpoint does not tell the log-probability of each token of a prompt")
        nats, tokens = 0.0, 0
        for token, label, text, log_p in zip(
                item.input_ids, item.labels, told.tokens, told.token_logprobs, strict=True):
            if label == NO_LOSS or log_p is None:
                continue
            self._check(token, text)
            nats, tokens = nats - log_p, tokens + 1
        return Likelihood(nats, tokens)

    def _check(self, token: int, text: str) -> None:
        """That the token is the same one there: of other vocabularies a likelihood would mean nothing."""
        mine = self._tokenizer.decode([token])
        if token in self._special or "�" in mine or text.startswith("bytes:"):
            return
        if mine.strip() != text.strip():
            raise CannotScore(f"token {token} is {text!r} there and {mine!r} by the tokenizer of "
                              f"{self._subject.folder}: the served model is made from another one")
