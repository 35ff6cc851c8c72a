"""The stage: the base learns the training examples; preferences after that, where the recipe has some.

    finetune/checkpoints/ logs/ history.jsonl curve.png    of `training.fit.fit`
    finetune/preferences/                                  the same of the second training
    finetune/model/                                        the adapter or the weights, tokenizer and chat template
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edged.store import files
from training.fit.fit import Fitted, summed
from training.fit.plan import plan
from training.recipe import Finetune, Recipe
from training.run import Run, Tell, Trained, digest
from training.stage import StageKind

if TYPE_CHECKING:
    from training.fit.preferences import Pair

MODEL, PREFERENCES = "model", "preferences"


def wanted(recipe: Recipe) -> bool:
    return recipe.finetune is not None


def key(run: Run) -> str:
    from training.finetune.preferred import preferences_digest
    from training.models import base_key

    distil = run.recipe.distil
    how = run.recipe.finetune
    wanted = preferences_digest(run, how.preferences) if how is not None and how.preferences is not None else None
    return digest("finetune", 1, how, wanted, run.recipe.seed, base_key(run), run.key("data"),
                  run.key("answers") if distil is not None and distil.answers is not None else None,
                  run.key("search") if run.recipe.search is not None else None)


def run(run: Run, tell: Tell) -> Trained:
    """Raises InvalidRequest, DeviceUnavailable, InsufficientMemory before anything is computed; what `fit` raises."""
    from training.chosen import chosen
    from training.estimate import check
    from training.finetune.launch import launched
    from training.fit.quiet import quiet
    from training.models import base_folder

    recipe = chosen(run.recipe, run)
    how = recipe.finetune
    assert how is not None
    check(dataclasses.replace(run, recipe=recipe), tell)
    folder = run.path("finetune")
    folder.mkdir(mode=files.FOLDER_MODE, parents=True, exist_ok=True)
    if how.devices > 1:
        base_folder(run, tell=tell)
        return launched(run, how.devices, tell)
    with quiet():
        made = finetuned(run, tell)
    # trl hangs a method of the model's own on it: a cycle that holds all weights until it is collected.
    gc.collect()
    return made


def finetuned(run: Run, tell: Tell) -> Trained:
    """In this process, which may be one of several that do it together."""
    from accelerate import PartialState

    from training.chosen import chosen
    from training.finetune.adapter import start
    from training.fit.fit import fit
    from training.fit.precision import precision
    from training.fit.preferences import prefer
    from training.models import base_folder, base_key, tokenizer_of
    from training.split import training_examples, validation_examples

    how, folder = chosen(run.recipe, run).finetune, run.path("finetune")
    assert how is not None
    base = base_folder(run, tell=tell)
    tokenizer = tokenizer_of(base)
    seed, train, validation = run.recipe.seed, training_examples(run), validation_examples(run)
    if how.through == "olive":
        from training.finetune.through_olive import tune

        adapter, rows = tune(base, base_key(run), tokenizer, how, folder, train=train, validation=validation,
                             computed=precision(how.precision), seed=seed, tell=tell)
        save(partial(_copied, adapter), tokenizer, folder / MODEL, base=run.recipe.base)
        return trained(how, run.recipe.base, [summed(rows, plan(len(train), how), len(train))])
    # Whatever is wrong with the preferences is found before anything is learned, and mending them leaves that as it is.
    better, held_out = _pairs(run, how, tokenizer, tell)
    model = start(base, how, precision(how.precision), seed)
    first = msgspec.structs.replace(how, preferences=None)
    fitted = [fit(model, tokenizer, train, validation, first, folder, seed=seed, tell=tell)]
    if how.preferences is not None:
        fitted.append(prefer(model, tokenizer, better, held_out, first, how.preferences, folder / PREFERENCES,
                             seed=seed, tell=tell))
    if PartialState().is_main_process:
        save(model.save_pretrained, tokenizer, folder / MODEL, base=run.recipe.base)
    return trained(how, run.recipe.base, fitted)


def _pairs(run: Run, how: Finetune, tokenizer: Any, tell: Tell) -> tuple[list[Pair], list[Pair]]:
    """Those to learn from and those held out; none where the recipe has no preferences."""
    from training.finetune.preferred import preferred
    from training.fit.preferences import pair

    if how.preferences is None:
        return [], []
    better, held_out = preferred(run, how.preferences, tokenizer, tell)
    return [pair(tokenizer, each) for each in better], [pair(tokenizer, each) for each in held_out]


def trained(how: Finetune, base: str, fitted: Sequence[Fitted]) -> Trained:
    """fitted: on the examples, and on preferences after that, whose losses are of another kind and named so."""
    metrics = {f"{prefix}{name}": value for prefix, one in zip(("", "preference_"), fitted, strict=False)
               for name, value in (("best_step", float(one.best_step)), ("train_loss", one.train_loss),
                                   ("validation_loss", one.validation_loss)) if value is not None}
    return Trained(
        kind="weights" if how.method == "full" else "adapter", folder=f"finetune/{MODEL}", base=base,
        steps=sum(one.steps for one in fitted), seconds=round(sum(one.seconds for one in fitted), 3),
        examples=fitted[0].examples, tokens=sum(one.tokens for one in fitted), metrics=metrics)


def save(weights: Callable[[Path], object], tokenizer: Any, to: Path, *, base: str | None = None) -> None:
    """The folder `to`, whole or not at all: adapter or weights in safetensors, tokenizer and chat template. weights:
    writes them into a folder, which it may have to make. base: of an adapter, as the recipe names it."""
    from converters.refuse import ADAPTER_CONFIG
    from training.models import named

    half = to.with_name(f"{to.name}.part")
    for old in (half, to):
        with contextlib.suppress(FileNotFoundError):
            files.remove_tree(old)
    weights(half)
    tokenizer.save_pretrained(half)
    # peft describes the adapter in a page of placeholders.
    files.remove(half / "README.md")
    if base is not None and (said := half / ADAPTER_CONFIG).exists():
        # peft writes where the base lies in this run's folder.
        config = {**json.loads(said.read_bytes()), "base_model_name_or_path": named(base)}
        said.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for file in half.iterdir():
        files.sync_file(file)
    files.rename(half, to)


def _copied(adapter: Path, to: Path) -> None:
    shutil.copytree(adapter, to)


FINETUNE = StageKind("finetune", wanted, key, run)
