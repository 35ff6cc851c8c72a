"""Those who answer: an endpoint, or a model of this machine; both are told what is wanted and hand on answers as they
come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from edged.errors import InvalidRequest
from training.batching import batches
from training.chat_wire import Ask
from training.endpoint import Endpoint
from training.examples import Example
from training.recipe import Teacher
from training.reply import Reply

if TYPE_CHECKING:
    from training.local_model import LocalModel


class Wanted(Struct, frozen=True):
    """One answer that is still to come. ask: see `training.answers.raw`. seed: of its draws."""

    ask: str
    example: Example
    sample: int
    seed: int


def from_endpoint(
    teacher: Teacher, wanted: Iterator[Wanted], logprobs: int, answered: bool = False,
) -> Iterator[tuple[Wanted, Reply | InvalidRequest]]:
    """In the order in which they come. `wanted` is read as places become free, so its writer can end it early.
    answered: it gave answers before. Raises what `Endpoint.ask_all` raises."""
    assert teacher.endpoint is not None
    with Endpoint(teacher.endpoint, teacher.model, api_key_env=teacher.api_key_env,
                  concurrency=teacher.concurrency, answered=answered) as endpoint:
        yield from endpoint.ask_all((each, _ask(teacher, each, logprobs)) for each in wanted)


def from_folder(
    teacher: Teacher, folder: Path, wanted: Sequence[Wanted],
) -> Iterator[tuple[Wanted, Reply | InvalidRequest]]:
    """teacher.concurrency answers at once, of prompts alike in length."""
    from training.local_model import LocalModel

    model = LocalModel(folder)
    order = sorted(wanted, key=lambda each: (each.sample, each.seed, _length(each.example)))
    of_one_seed = batches(
        order, lambda batch: len(batch) <= teacher.concurrency and batch[0].seed == batch[-1].seed)
    for batch in of_one_seed:
        try:
            yield from zip(batch, _replies(model, teacher, batch), strict=True)
        except InvalidRequest:
            # One of them is too long for the model's context, say.
            for each in batch:
                try:
                    yield each, _replies(model, teacher, [each])[0]
                except InvalidRequest as refused:
                    yield each, refused


def _replies(model: LocalModel, teacher: Teacher, batch: Sequence[Wanted]) -> list[Reply]:
    """Of one seed. Draws depend on it and on the example, not on what else is in the batch."""
    found = model.answers(
        [each.example for each in batch], max_tokens=teacher.max_tokens, batch_size=len(batch),
        temperature=teacher.temperature, top_p=teacher.top_p, seed=batch[0].seed)
    return [replies[0] for replies in found]


def _ask(teacher: Teacher, wanted: Wanted, logprobs: int) -> Ask:
    example = wanted.example
    return Ask(
        messages=example.prompt, tools=example.tools, max_tokens=teacher.max_tokens, temperature=teacher.temperature,
        top_p=teacher.top_p, seed=wanted.seed, logprobs=logprobs)


def _length(example: Example) -> int:
    return len(msgspec.json.encode(example.prompt))
