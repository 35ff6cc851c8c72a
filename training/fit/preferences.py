"""Direct preference optimisation (Rafailov et al. 2023) by trl: of two answers the better one becomes more likely,
measured against the model as it was before."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from training.examples import Example
from training.fit.fit import Fitted, padding, run
from training.recipe import Fit, Preferences
from training.run import Tell


class Pair(TypedDict):
    """One row for trl's collator, in tokens. length: of the longer of the two."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    length: int


def prefer(  # noqa: PLR0917
    model: Any, tokenizer: Any, train: Sequence[Pair], validation: Sequence[Pair], how: Fit,
    preferences: Preferences, folder: Path, *, seed: int, tell: Tell,
) -> Fitted:
    """As `training.fit.fit.fit`, of what `pair` makes of examples; train has some. how: of the training before, of
    which what `preferences` does not say stays; rows are never packed. Losses are of pairs. Raises as `fit`."""
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    from training.fit.preference_trainer import PreferenceTrainer

    adapted = hasattr(model, "peft_config")
    settled = msgspec.structs.replace(
        how, learning_rate=preferences.learning_rate, epochs=preferences.epochs, packing=False)
    collator = DataCollatorForPreference(pad_token_id=padding(tokenizer))
    fitted = run(
        PreferenceTrainer, model, tokenizer, settled, folder, rows=list(train), checked=list(validation),
        collator=collator, eval_collator=collator, examples=len(train), seed=seed, tell=tell,
        settings={"beta": preferences.beta},
        # Of an adapter trl keeps a frozen copy beside it, by this name.
        more={} if adapted else {"ref_model": copy.deepcopy(model)})
    if adapted and "ref" in model.peft_config:
        model.delete_adapter("ref")
    return fitted


def pair(tokenizer: Any, example: Example) -> Pair:
    """Of an example that has a rejected answer. Raises as `training.encode.encoded`."""
    from training.encode import encoded, prompt_ids

    prompt = prompt_ids(tokenizer, example)
    chosen, rejected = (encoded(tokenizer, example, completion_only=True, answer=answer).input_ids[len(prompt):]
                        for answer in (example.answer, example.rejected))
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected,
            "length": len(prompt) + max(len(chosen), len(rejected))}
