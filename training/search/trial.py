"""One trial: the training that the recipe asks for, with other settings and maybe less of the data, and what it is
worth."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edged.errors import Internal, InvalidRequest
from edged.store import files
from training.estimate import check
from training.examples import Example
from training.recipe import Evaluate, Finetune, Metric, Recipe, Search, Student, decoded
from training.run import Moment, Run, Tell
from training.search.found import Setting
from training.search.space import with_values

if TYPE_CHECKING:
    from training.evaluate.choice import Chosen
    from training.fit.fit import Fitted

MODEL = "model"
_ADAPTER_CONFIG = "adapter_config.json"

OnEvaluation = Callable[[int, float], None]


@dataclass(frozen=True, slots=True)
class Trial:
    """run: of the worker. folder: of the trial; it keeps history and logs, not the weights. on_evaluation: see
    `training.fit.fit.fit`."""

    run: Run
    settings: Mapping[str, Setting]
    folder: Path
    tell: Tell
    on_evaluation: OnEvaluation

    def made(self) -> tuple[float, dict[str, Any]]:
        """The value that is searched for, and other figures. Raises what the training raises, what on_evaluation
        raises, and Internal where there is no value."""
        from training.fit.quiet import quiet
        from training.split import training_examples

        recipe = as_tried(decoded(self.run.file, with_values(self.run.file.values, self.settings)))
        search, how = searched(recipe), trained_by(recipe)
        # Some settings may need more memory than the recipe as it is written.
        check(dataclasses.replace(self.run, recipe=recipe), _untold)
        examples = share_of(training_examples(self.run), search.share, recipe.seed)
        try:
            with quiet():
                model, tokenizer, fitted = (self._student(how, examples) if isinstance(how, Student)
                                            else self._finetuned(how, examples))
            figures = {"seconds": round(fitted.seconds, 3), "steps": fitted.steps, "train_loss": fitted.train_loss,
                       "validation_loss": fitted.validation_loss}
            value: float | None = fitted.validation_loss
            if search.objective != "validation_loss":
                value = figures[search.objective] = self._metric(recipe, search.objective, model, tokenizer)
        finally:
            _forget_weights(self.folder)
        if value is None or not math.isfinite(value):
            raise Internal(f"the trial has no {search.objective}: it came to {value}")
        return value, figures

    def _student(self, how: Student, examples: list[Example]) -> tuple[Any, Any, Fitted]:
        """Trials of one worker share the teachers' soft targets, which lie in its run folder."""
        from training.student.stage import train

        self.run.path("student").mkdir(mode=files.FOLDER_MODE, exist_ok=True)
        return train(self.run, how, self.folder, self.tell, train_on=examples, on_evaluation=self.on_evaluation)

    def _finetuned(self, how: Finetune, examples: list[Example]) -> tuple[Any, Any, Fitted]:
        from training.finetune.adapter import start
        from training.fit.fit import fit
        from training.fit.precision import precision
        from training.models import base_folder, tokenizer_of
        from training.split import validation_examples

        base = base_folder(self.run, tell=self.tell)
        tokenizer = tokenizer_of(base)
        seed = self.run.recipe.seed
        model = start(base, how, precision(how.precision), seed)
        fitted = fit(model, tokenizer, examples, validation_examples(self.run), how, self.folder, seed=seed,
                     tell=self.tell, on_evaluation=self.on_evaluation)
        return model, tokenizer, fitted

    def _metric(self, recipe: Recipe, metric: Metric, model: Any, tokenizer: Any) -> float | None:
        """Of what the trained model says to the validation split."""
        from training.evaluate.measure import measure
        from training.evaluate.subject import Subject
        from training.finetune.stage import save
        from training.models import base_folder
        from training.split import validation_examples

        made = self.folder / MODEL
        save(model.save_pretrained, tokenizer, made)
        adapter = (made / _ADAPTER_CONFIG).exists()
        subject = Subject(name="trial", kind="hf", folder=base_folder(self.run) if adapter else made,
                          adapter=made if adapter else None)
        settings, chosen = measured_by(self.run, recipe, metric)
        result = measure(subject, validation_examples(self.run), settings, self.folder / "evaluate", self.tell,
                         chosen=chosen, seed=recipe.seed)
        return result.figures[metric].value


def measured_by(run: Run, recipe: Recipe, metric: Metric) -> tuple[Evaluate, Chosen]:
    """How a trial is measured: classes are those of the training split too, as where the training that follows is
    measured. Raises InvalidRequest where the metric does not fit the answers."""
    from training.evaluate.choice import choose
    from training.split import training_examples, validation_examples

    settings = msgspec.structs.replace(recipe.evaluate, metrics=(metric,), performance=False)
    return settings, choose(settings, validation_examples(run), training_examples(run))


def trained_by(recipe: Recipe) -> Finetune | Student:
    """How the last training of the recipe is made. Raises InvalidRequest where there is none."""
    if recipe.distil is not None and recipe.distil.student is not None:
        return recipe.distil.student
    if recipe.finetune is None:
        raise InvalidRequest("the recipe has [search] and nothing to train; add [finetune] or [distil.student]")
    return recipe.finetune


def searched(recipe: Recipe) -> Search:
    assert recipe.search is not None
    return recipe.search


def share_of(examples: Sequence[Example], share: float, seed: int) -> list[Example]:
    """A part of the prompts with all their answers, in their order; each trial gets the same."""
    if share >= 1:
        return list(examples)
    prompts = sorted({example.id for example in examples},
                     key=lambda prompt: hashlib.sha256(f"{seed}:search:{prompt}".encode()).digest())
    drawn = set(prompts[:max(1, round(len(prompts) * share))])
    return [example for example in examples if example.id in drawn]


def as_tried(recipe: Recipe) -> Recipe:
    """As its trials are made: as long as the search says, and on one device each, with the same examples a step."""
    search, how = searched(recipe), trained_by(recipe)
    steps = [each for each in (search.max_steps, how.max_steps) if each is not None]
    how = msgspec.structs.replace(
        how, max_steps=min(steps, default=None), devices=1, accumulation=how.accumulation * how.devices)
    if isinstance(how, Finetune):
        # It ends before preferences are learned.
        return msgspec.structs.replace(recipe, finetune=msgspec.structs.replace(how, preferences=None))
    assert recipe.distil is not None
    return msgspec.structs.replace(recipe, distil=msgspec.structs.replace(recipe.distil, student=how))


def _forget_weights(folder: Path) -> None:
    for name in (MODEL, "checkpoints"):
        if (folder / name).is_dir():
            files.remove_tree(folder / name)


def _untold(moment: Moment) -> None:
    pass
