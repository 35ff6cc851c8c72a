"""Whose chat template what teachers answer is learned by."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from edged.errors import InvalidRequest
from training.examples import Example, Message
from training.models import base_folder, base_key, tokenizer_of
from training.recipe import Recipe
from training.run import Run, Tell

#: Why an answer cannot be learned; None where it can.
Unlearnable = Callable[[Example, Message], str | None]


def pupil(recipe: Recipe) -> str | None:
    """The model, as the recipe names it, whose tokenizer the last training has; None where that makes one of its own,
    and where nothing is trained."""
    student = recipe.distil.student if recipe.distil is not None else None
    if student is None:
        return recipe.base if recipe.finetune is not None else None
    if student.init != "scratch":
        return student.init
    return recipe.base if student.tokenizer == "teacher" else None


def pupil_key(run: Run) -> str | None:
    """Changes with that model. Raises as `training.models.base_folder`."""
    return base_key(run, name) if (name := pupil(run.recipe)) is not None else None


def pupils_tokenizer(run: Run, tell: Tell) -> Any | None:
    """None where `pupil` is. Raises as `training.models.base_folder`."""
    return tokenizer_of(base_folder(run, name, tell)) if (name := pupil(run.recipe)) is not None else None


def require_prompts(run: Run, tokenizer: Any | None, prompts: Iterable[Example]) -> None:
    """Raises InvalidRequest where the chat template of a model other than the base, by whose template stage data has
    looked, refuses one of them."""
    from training.encode import prompt_ids
    from training.rendering import require_template

    name = pupil(run.recipe)
    if tokenizer is None or name == run.recipe.base:
        return
    try:
        require_template(tokenizer)
        for example in prompts:
            prompt_ids(tokenizer, example)
    except InvalidRequest as error:
        raise InvalidRequest(f"{name}, which is to learn the answers, cannot be asked what teachers would be: "
                             f"{error.message}") from None


def unlearnable(tokenizer: Any) -> Unlearnable:
    from training.encode import token_counts

    def why(example: Example, answer: Message) -> str | None:
        try:
            token_counts(tokenizer, msgspec.structs.replace(example, answer=answer, rejected=None))
        except InvalidRequest as error:
            return error.message.removeprefix(f"example {example.id}: ")
        return None

    return why
