"""The preferences that a fine-tuning learns last: where they are from, and what of them is held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edged.errors import InvalidRequest
from training.examples import Example
from training.recipe import Preferences
from training.run import Moment, Run, Tell, digest

PREFERENCES_KEY = ("finetune", "preferences", "data")


def preferences_digest(run: Run, wanted: Preferences) -> str:
    """Changes with the files of their own, where they have some. Raises ConfigError where one is not there."""
    from training.data import files

    sources = files.sources(run, wanted.data, PREFERENCES_KEY, "train")
    return digest([(source.title, files.digest_of(source)) for source in sources])


def require_readable(run: Run, wanted: Preferences) -> None:
    """Needs no stage before. Raises ConfigError with everything that is wrong with files of their own, CorruptFile."""
    _read(run, wanted)


def candidates(run: Run, wanted: Preferences) -> list[Example]:
    """Pairs that may be learned from or held out, before anybody has counted their tokens. Takes no heavy library but
    what reads their files.

    Raises ConfigError with everything that is wrong with the files; InvalidRequest where there is no pair, or where
    stage data has not ended."""
    from training.split import held_out, not_near, prompts_of

    found = _read(run, wanted) if wanted.data else _pairs(prompts_of(run, "train"))
    return _required(not_near(run, found, held_out(run)))


def preferred(run: Run, wanted: Preferences, tokenizer: Any, tell: Tell) -> tuple[list[Example], list[Example]]:
    """(training, validation), each with a rejected answer. Of files of their own a validation share is drawn by prompt
    and seed; what is held out, and what is longer than `data.max_tokens`, is left out and told.

    Raises as `candidates`, and ConfigError of rows that the chat template refuses."""
    from training.encode import token_counts
    from training.split import held_out, not_near, prompts_of, shared_out

    if not wanted.data:
        return candidates(run, wanted), _pairs(prompts_of(run, "validation"))
    data = run.recipe.data
    assert data is not None
    read = _read(run, wanted, tell, tokenizer)
    found = [each for each in not_near(run, read, held_out(run))
             if sum(token_counts(tokenizer, each)) <= data.max_tokens]
    if len(found) < len(read):
        tell(Moment(stage="finetune", note=f"{len(read) - len(found)} of {len(read)} preferences are left out: their "
                                           "prompt is the same or, by data.near_duplicates, nearly the same as one of "
                                           "validation or test, or they are longer than data.max_tokens"))
    drawn = shared_out([(each.id, each.stratum) for each in {each.id: each for each in found}.values()],
                       {"validation": data.validation_share}, run.recipe.seed)
    return (_required([each for each in found if drawn[each.id] == "train"]),
            [each for each in found if drawn[each.id] == "validation"])


def _read(
    run: Run, wanted: Preferences, tell: Tell = lambda moment: None, tokenizer: Any | None = None,
) -> list[Example]:
    from training.data.read import examples_of

    return _pairs(examples_of(run, wanted.data, PREFERENCES_KEY, "preferences",
                              lambda note: tell(Moment(stage="finetune", note=note)), tokenizer=tokenizer))


def _required(examples: list[Example]) -> list[Example]:
    if not examples:
        raise InvalidRequest("finetune.preferences: no example to learn from has a rejected answer; give data.train "
                             "the form preferences (columns prompt, chosen, rejected), or name a file in "
                             "finetune.preferences.data with short enough rows whose prompts are not those of "
                             "validation and test, nor nearly")
    return examples


def _pairs(examples: Sequence[Example]) -> list[Example]:
    return [each for each in examples if each.answer is not None and each.rejected is not None]
