"""A subject that is asked: what it says to examples, and how likely it finds the answers that are expected. The same
for a folder that is computed here and for a served model."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import msgspec

from edged.errors import InvalidRequest
from training.chat_wire import Ask
from training.endpoint import Endpoint
from training.evaluate.items import Loss, Said
from training.evaluate.scoring import CannotScore, PromptRefused, Scorer
from training.evaluate.subject import Subject
from training.examples import Example
from training.local_model import LocalModel, load_tokenizer
from training.reply import Reply

#: Batches that are computed before their answers are kept: alike lengths among them go together.
_BATCHES = 4
#: Requests at once of a served model, as its users send them.
CONCURRENCY = 8


class Asked(Protocol):
    def said(self, examples: Sequence[Example], max_tokens: int) -> Iterator[Said]:
        """Greedily, in any order. A prompt that is refused is an answer with an error. Raises EdgedError where nothing
        can be asked at all."""
        ...

    def losses(self, examples: Sequence[Example]) -> Iterator[Loss]:
        """Raises CannotScore."""
        ...


@contextlib.contextmanager
def asked(subject: Subject, batch_size: int) -> Iterator[Asked]:
    if subject.kind == "hf":
        yield _Local(_model(subject), batch_size)
        return
    if subject.base_url is None or subject.model is None:
        raise InvalidRequest(f"{subject.name}: an endpoint needs its address and the name of the model there")
    with Endpoint(
            subject.base_url, subject.model, api_key_env=subject.api_key_env, concurrency=CONCURRENCY) as endpoint:
        yield _Served(endpoint, subject, batch_size)


def together_tokens_per_s(lines: Iterable[Said]) -> float | None:
    """Of a served model that was asked for CONCURRENCY answers at once: tokens of all answers by the time that they
    took. None of one that is computed here, of too few answers to keep so many under way, and where tokens are not
    told."""
    served = [line for line in lines if line.since_s is not None]
    answers = [line for line in served if line.said is not None]
    tokens = [line.completion_tokens for line in answers if line.completion_tokens is not None]
    took_s = sum(line.since_s or 0.0 for line in served)
    if len(tokens) < max(len(answers), 2 * CONCURRENCY) or took_s <= 0:
        return None
    return sum(tokens) / took_s


def request_of(example: Example, max_tokens: int, subject: Subject, *, stream: bool = False) -> Ask:
    """The least random that an endpoint can be: the likeliest token, with a seed for those that draw all the same."""
    return Ask(messages=example.prompt, tools=example.tools, max_tokens=max_tokens, temperature=0.0, seed=0,
               adapter=subject.served_adapter, stream=stream)


def _model(subject: Subject) -> LocalModel:
    if subject.folder is None:
        raise InvalidRequest(f"{subject.name}: a model that is computed here needs its folder")
    return LocalModel(subject.folder, subject.adapter)


class _Local:
    def __init__(self, model: LocalModel, batch_size: int) -> None:
        self._model = model
        self._batch_size = batch_size

    def said(self, examples: Sequence[Example], max_tokens: int) -> Iterator[Said]:
        for part in self._parts(examples):
            try:
                found = self._model.answers(part, max_tokens=max_tokens, batch_size=self._batch_size)
            except InvalidRequest as refused:
                if len(part) > 1:
                    for one in part:
                        yield from self.said([one], max_tokens)
                    continue
                yield _refused(part[0], refused)
                continue
            for example, (reply,) in zip(part, found, strict=True):
                yield _said(example, reply)

    def losses(self, examples: Sequence[Example]) -> Iterator[Loss]:
        for part in self._parts(examples):
            try:
                found = self._model.likelihoods(part, batch_size=self._batch_size)
            except InvalidRequest as refused:
                if len(part) > 1:
                    for one in part:
                        yield from self.losses([one])
                    continue
                yield Loss(id=part[0].id, nats=None, error=refused.message)
                continue
            for example, likelihood in zip(part, found, strict=True):
                yield Loss(id=example.id, nats=likelihood.nats, tokens=likelihood.tokens)

    def _parts(self, examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
        ordered = sorted(examples, key=lambda example: sum(len(message.content) for message in example.prompt))
        size = _BATCHES * self._batch_size
        return (ordered[first:first + size] for first in range(0, len(ordered), size))


class _Served:
    def __init__(self, endpoint: Endpoint, subject: Subject, batch_size: int) -> None:
        self._endpoint = endpoint
        self._subject = subject
        self._batch_size = batch_size

    def said(self, examples: Sequence[Example], max_tokens: int) -> Iterator[Said]:
        by_id = {example.id: example for example in examples}
        before_s = time.monotonic()
        for key, reply in self._endpoint.ask_all(
                (example.id, request_of(example, max_tokens, self._subject)) for example in examples):
            now_s = time.monotonic()
            line = _refused(by_id[key], reply) if isinstance(reply, InvalidRequest) else _said(by_id[key], reply)
            yield msgspec.structs.replace(line, since_s=now_s - before_s)
            before_s = now_s

    def losses(self, examples: Sequence[Example]) -> Iterator[Loss]:
        folder, adapter = self._subject.folder, self._subject.adapter
        if folder is None:
            raise CannotScore("nobody knows how this endpoint's model writes its tokens: the subject names no folder")
        with Scorer(self._subject, load_tokenizer(folder, adapter)) as scorer:
            for first in range(0, len(examples), self._batch_size):
                yield from _scored(scorer, examples[first:first + self._batch_size])


def _scored(scorer: Scorer, part: Sequence[Example]) -> Iterator[Loss]:
    """Where one is refused each is asked alone, so that the others have theirs."""
    try:
        found = scorer.likelihoods(part)
    except PromptRefused as why:
        if len(part) > 1:
            for one in part:
                yield from _scored(scorer, [one])
            return
        yield Loss(id=part[0].id, nats=None, error=str(why))
        return
    for example, likelihood in zip(part, found, strict=True):
        yield Loss(id=example.id, nats=likelihood.nats, tokens=likelihood.tokens)


def _said(example: Example, reply: Reply) -> Said:
    return Said(
        id=example.id, said=reply.message, finish_reason=reply.finish_reason, prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens, seconds=reply.seconds)


def _refused(example: Example, why: InvalidRequest) -> Said:
    return Said(id=example.id, said=None, error=why.message)
