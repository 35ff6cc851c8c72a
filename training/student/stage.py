"""Stage two of distillation: a student is trained on the text of the data and of the teachers' answers, and where the
recipe says so on the teachers' distributions and layers.

    <run>/student/model/      weights, tokenizer, chat template
    <run>/student/targets/    the teachers' soft targets (`training.student.kept_targets`)
    and what `training.fit.fit` leaves
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edged.errors import InvalidRequest
from training.chosen import chosen
from training.recipe import Recipe, Student, Teacher
from training.run import Run, Tell, Trained, digest
from training.stage import StageKind
from training.student import shape
from training.student.begin import SCRATCH

if TYPE_CHECKING:
    from training.encode import Encoded
    from training.examples import Example
    from training.fit.fit import Fitted
    from training.student.trainer import Lesson

MODEL, TARGETS = "model", "targets"


def wanted(recipe: Recipe) -> bool:
    return recipe.distil is not None and recipe.distil.student is not None


def key(run: Run) -> str:
    from training.models import base_key

    said = student_of(run.recipe)
    before = [run.key("data")]
    if run.recipe.distil is not None and run.recipe.distil.answers is not None:
        before.append(run.key("answers"))
    if run.recipe.search is not None:
        before.append(run.key("search"))
    models = [base_key(run, name) for name in models_of(said)]
    return digest(said, run.recipe.seed, models, before)


def run_stage(run: Run, tell: Tell) -> Trained:
    """Raises ConfigError for sizes that cannot be, InvalidRequest for a teacher of another vocabulary or a student that
    cannot read the examples; what `training.estimate.check`, `training.fit.fit.fit` and `training.models.base_folder`
    raise."""
    from training.estimate import check as check_needs
    from training.finetune.stage import save
    from training.fit.quiet import quiet

    recipe = chosen(run.recipe, run)
    said = student_of(recipe)
    check(run, said)
    check_needs(dataclasses.replace(run, recipe=recipe), tell)
    folder = run.begin("student")
    with quiet():
        model, tokenizer, fitted = train(run, said, folder, tell)
        save(model.save_pretrained, tokenizer, folder / MODEL)
    losses = {"best_step": float(fitted.best_step), "train_loss": fitted.train_loss,
              "validation_loss": fitted.validation_loss}
    return Trained(
        kind="weights", folder=f"student/{MODEL}", base=None if said.init == SCRATCH else said.init, steps=fitted.steps,
        seconds=fitted.seconds, examples=fitted.examples, tokens=fitted.tokens,
        metrics={name: value for name, value in losses.items() if value is not None}
        | {"parameters": float(sum(weight.numel() for weight in model.parameters()))})


def train(
    run: Run, said: Student, folder: Path, tell: Tell, *, train_on: Sequence[Example] | None = None,
    on_evaluation: Callable[[int, float], None] | None = None,
) -> tuple[Any, Any, Fitted]:
    """The trained model, its tokenizer, and how it went; goes on with what an earlier process left in `folder`. For the
    stage, and for trials of a search, each with a folder of its own: they share the soft targets where they learn from
    the same examples. train_on: other examples than the run's. Raises as the stage."""
    from training.encode import encoded
    from training.fit.fit import fit
    from training.models import base_folder
    from training.split import training_examples, validation_examples
    from training.student import begin, match
    from training.student.trainer import trainer_of

    check(run, said)
    examples = list(train_on if train_on is not None else training_examples(run))
    seed = run.recipe.seed
    if said.init == SCRATCH:
        teacher = base_folder(run) if said.tokenizer == "teacher" else None
        model, tokenizer = begin.from_scratch(said, examples, teacher, seed)
    else:
        model, tokenizer = begin.from_model(base_folder(run, said.init))
    encodings = [encoded(tokenizer, example, completion_only=said.completion_only) for example in examples]
    require_room(model, encodings)
    lesson, lesson_key = _lesson(run, said, encodings, tell, model=model, tokenizer=tokenizer)
    if said.match is not None and said.match.hidden and lesson.teachers is not None:
        match.attach_maps(model, lesson.teachers.models[0].config.hidden_size, seed)
    if said.match is not None and said.match.attention:
        model.set_attn_implementation("eager")
    try:
        fitted = fit(model, tokenizer, examples, validation_examples(run), said, folder, seed=seed, tell=tell,
                     trainer=trainer_of(lesson, lesson_key), on_evaluation=on_evaluation)
    finally:
        if lesson.kept is not None:
            lesson.kept.close()
    match.take_maps_off(model)
    return model, tokenizer, fitted


def check(run: Run, said: Student) -> None:
    """What is wrong with the recipe alone, before anything is loaded. Raises ConfigError with the line."""
    if said.init == SCRATCH and (found := shape.mistake(said.architecture)) is not None:
        name, message = found
        raise run.file.mistake(("distil", "student", "architecture", name), message, at_value=True)
    if said.match is not None and said.packing:
        raise run.file.mistake(("distil", "student", "packing"),
                               "packed rows hold several examples, whose layers are not matched: say packing = false, "
                               "or leave [distil.student.match] out", at_value=True)
    if said.devices > 1:
        raise run.file.mistake(("distil", "student", "devices"),
                               "a student is trained on one device; it is small: say devices = 1", at_value=True)


def require_room(model: Any, encodings: Sequence[Encoded]) -> None:
    """Its own tokenizer may need more tokens for an example than the base's, by which stage data left out the longest.
    Raises InvalidRequest."""
    longest, context = max(len(each.input_ids) for each in encodings), model.config.max_position_embeddings
    if longest > context:
        raise InvalidRequest(
            f"the longest example has {longest} tokens as the student reads it, and its context is {context}: "
            f"say distil.student.architecture.context = {longest} or more where it begins from scratch, or leave the "
            "longest out: lower data.max_tokens, or say distil.answers.filters.max_characters for answers of teachers")


def student_of(recipe: Recipe) -> Student:
    if recipe.distil is None or recipe.distil.student is None:
        raise InvalidRequest("the recipe has no [distil.student]")
    return recipe.distil.student


def _lesson(
    run: Run, said: Student, encodings: Sequence[Encoded], tell: Tell, *, model: Any, tokenizer: Any,
) -> tuple[Lesson, str]:
    """And what tells it from other lessons."""
    from training.models import base_folder, base_key, tokenizer_of
    from training.student import teachers as of_teachers
    from training.student.kept_targets import keep
    from training.student.trainer import Lesson

    if said.soft is None and said.match is None:
        return Lesson(), ""
    names = _teachers(said)
    folders = [(base_folder(run, teacher.model if teacher else None), teacher.weight if teacher else 1.0)
               for teacher in names]
    rows = model.get_input_embeddings().weight.shape[0]
    of_teachers.require_same_words(tokenizer, rows, [folder for folder, _ in folders], tokenizer_of)
    if said.soft is None:
        folders = folders[:1]
    keys = [base_key(run, teacher.model if teacher else None) for teacher in names]
    temperature = said.soft.temperature if said.soft is not None else 1.0
    matched = said.match is not None
    loaded = of_teachers.load(folders, temperature, attention=said.match is not None and said.match.attention > 0)
    lesson_key = digest(said.soft, said.match, keys)[:16]
    if matched:
        return Lesson(said.soft, said.match, teachers=loaded), lesson_key
    kept = keep(loaded, encodings, run.path("student") / TARGETS, tell, of_teachers=keys,
                pad=tokenizer.pad_token_id or 0)
    return Lesson(said.soft, kept=kept), lesson_key


def _teachers(said: Student) -> list[Teacher | None]:
    """None: the recipe's base."""
    return list(said.soft.teachers) if said.soft is not None and said.soft.teachers else [None]


def models_of(said: Student) -> list[str | None]:
    """All models that the result depends on, as `training.models.base_key` takes them. None: the recipe's base."""
    found: list[str | None] = [None] if said.init == SCRATCH and said.tokenizer == "teacher" else []
    if said.init != SCRATCH:
        found.append(said.init)
    if said.soft is not None or said.match is not None:
        found += [teacher.model if teacher else None for teacher in _teachers(said)]
    return found


STUDENT = StageKind(name="student", wanted=wanted, key=key, run=run_stage)
