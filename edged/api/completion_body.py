"""Answers of /v1/completions, streamed and whole, and the best of several."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, Struct, UnsetType

from edged.api.logprobs import OldLogprobs, TextLogprobs, floored
from edged.api.usage import UsageBody, fingerprint, usage_body
from edged.api.wire import OPENAI
from edged.errors import EdgedError
from edged.types import ChoiceEnd, Delta, Event, Finished, Started, Usage

if TYPE_CHECKING:
    from edged.daemon.status import Served

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


class BestAnswers:
    """All choices are written; answered are the n of each prompt whose tokens are the most likely on average, the best
    first, as OpenAI says it. The token that ends an answer is not among them."""

    def __init__(self, head: Head, shape: Shape, written: int, echo: bool, served: Served) -> None:
        self._n, self._prompts, logprobs = shape
        self._written = written
        self._echo = echo
        self._whole = CompletionAnswer(head, (written, self._prompts, logprobs), served)
        self._logprobs: list[list[float]] = [[] for _ in range(self._prompts * written)]
        self._echoed = [0] * self._prompts

    def add(self, prompt: int, event: Event) -> None:
        self._whole.add(prompt, event)
        if isinstance(event, Delta):
            index = prompt * self._written + event.index
            self._logprobs[index].extend(floored(token.logprob) for token in event.logprobs)
        elif isinstance(event, Started) and self._echo:
            self._echoed[prompt] = event.prompt_tokens

    def answer(self) -> Completion:
        whole = self._whole.answer()
        best: list[Choice] = []
        for prompt, echoed in enumerate(self._echoed):
            first = prompt * self._written
            means = [_mean(logprobs[echoed:]) for logprobs in self._logprobs[first:first + self._written]]
            ranks = sorted(range(self._written), key=means.__getitem__, reverse=True)
            best += [whole.choices[first + rank] for rank in ranks[:self._n]]
        numbered = [msgspec.structs.replace(choice, index=index) for index, choice in enumerate(best)]
        return msgspec.structs.replace(whole, choices=numbered)


def _mean(logprobs: list[float]) -> float:
    """An answer that ended at once is the last choice."""
    return sum(logprobs) / len(logprobs) if logprobs else -math.inf
