"""The preferences that a fine-tuning learns last: where they are from, and what of them is held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from training.examples import Example
from training.recipe import Preferences
from training.run import Moment, Run, Tell, digest

_KEY = ("finetune", "preferences", "data")


def preferences_digest(run: Run, wanted: Preferences) -> str:
    """Changes with the files of their own, where they have some. Raises ConfigError where one is not there."""
    from training.data import files

    sources = files.sources(run, wanted.data, _KEY, "train")
    return digest([(source.title, files.digest_of(source)) for source in sources])


def preferred(run: Run, wanted: Preferences, tokenizer: Any, tell: Tell) -> tuple[list[Example], list[Example]]:
    """(training, validation), each with a rejected answer. Of files of their own a validation share is drawn by prompt
    and seed; what is held out of the data, and what is longer than `data.max_tokens`, is left out and told.

    Raises ConfigError with everything that is wrong with the files."""
    from training.split import prompts_of

    if not wanted.data:
        return _pairs(prompts_of(run, "train")), _pairs(prompts_of(run, "validation"))
    from training.data.read import examples_of
    from training.encode import token_counts
    from training.split import shared_out

    data = run.recipe.data
    assert data is not None
    held_out = {each.id for name in ("validation", "test") for each in prompts_of(run, name)}
    read = _pairs(examples_of(run, wanted.data, _KEY, "preferences"))
    found = [each for each in read
             if each.id not in held_out and sum(token_counts(tokenizer, each)) <= data.max_tokens]
    if len(found) < len(read):
        tell(Moment(stage="finetune", note=f"{len(read) - len(found)} of {len(read)} preferences are left out: their "
                                           "prompt is one of validation or test, or they are longer than "
                                           "data.max_tokens"))
    drawn = shared_out([(each.id, each.stratum) for each in {each.id: each for each in found}.values()],
                       {"validation": data.validation_share}, run.recipe.seed)
    return ([each for each in found if drawn[each.id] == "train"],
            [each for each in found if drawn[each.id] == "validation"])


def _pairs(examples: Sequence[Example]) -> list[Example]:
    return [each for each in examples if each.answer is not None and each.rejected is not None]
