"""What a search may vary, and the recipe that comes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edged.errors import ConfigError, InvalidRequest
from training.chosen import chosen
from training.recipe import decoded, load_recipe
from training.run import Run
from training.search.found import Searched
from training.search.space import Parameter, parameters, with_values

pytestmark = pytest.mark.unit

BASE = """
name = "home"
base = "./base"
data = {train = ["a.jsonl"]}
[finetune]
batch_size = 8
learning_rate = 2e-4
"""


def run_of(folder: Path, ranges: str, base: str = BASE) -> Run:
    path = folder / "home.toml"
    path.write_text(f"{base}\n[search.ranges]\n{ranges}\n")
    recipe, file = load_recipe(path)
    return Run(folder / "run", recipe, file)


def space(folder: Path, ranges: str, base: str = BASE) -> tuple[Parameter, ...]:
    run = run_of(folder, ranges, base)
    return parameters(run.recipe, run.file)


def test_ranges_become_parameters_of_the_kind_that_the_key_is(tmp_path: Path) -> None:
    assert space(tmp_path, """
        "finetune.learning_rate" = {low = 1e-5, high = 1e-3, log = true}
        "finetune.rank" = {low = 4, high = 33, step = 4}
        "finetune.batch_size" = {choices = [4, 8]}
        "finetune.warmup_share" = {low = 0.0, high = 0.2}
    """) == (
        Parameter(key="finetune.batch_size", default=8, kind="choice", choices=(4, 8)),
        Parameter(key="finetune.learning_rate", default=2e-4, kind="number", low=1e-5, high=1e-3, log=True),
        Parameter(key="finetune.rank", default=16, kind="whole", low=4, high=32, step=4),
        Parameter(key="finetune.warmup_share", default=0.05, kind="number", low=0, high=0.2),
    )


def test_keys_of_inner_tables_vary_too(tmp_path: Path) -> None:
    base = BASE.partition("[finetune]")[0] + "[distil.student.architecture]\nlayers = 4"
    [layers] = space(tmp_path, '"distil.student.architecture.layers" = {low = 2, high = 8}', base)
    assert (layers.kind, layers.default) == ("whole", 4)


@pytest.mark.parametrize(("ranges", "message"), [
    ('"finetune.learning_rat" = {low = 1, high = 2}', "did you mean learning_rate?"),
    ('"finetune.rank.x" = {low = 1, high = 2}', "is no key of the recipe"),
    ('"finetune.preferences.beta" = {low = 0.1, high = 0.2}', "does not have"),
    ('"distil.student.batch_size" = {low = 1, high = 2}', "does not have"),
    ('"finetune.learning_rate" = {low = 1e-3, high = 1e-2}', "leaves out the recipe's own value, 0.0002"),
    ('"finetune.rank" = {low = 1, high = 32, step = 2}', "steps over the recipe's own value, 16"),
    ('"finetune.rank" = {low = 1, high = 32, step = 1.5}', "so must be its step"),
    ('"finetune.rank" = {low = 0, high = 32}', "cannot be 0"),
    ('"finetune.rank" = {low = 1.5, high = 32}', "cannot be 1.5"),
    ('"finetune.warmup_share" = {low = 0, high = 2}', "cannot be 2"),
    ('"finetune.warmup_share" = {low = 0, high = 1, log = true}', "low above 0"),
    ('"finetune.batch_size" = {choices = [2, 4]}', "without the recipe's own value, 8"),
    ('"finetune.schedule" = {choices = ["cosine", "cosin"]}', "cannot be cosin"),
    ('"finetune.packing" = {low = 0, high = 1}', "cannot be 0"),
])
def test_a_range_that_cannot_be_is_told_with_its_place(tmp_path: Path, ranges: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        space(tmp_path, ranges)
    assert caught.value.line is not None
    assert "search.ranges" in str(caught.value)


def test_a_recipe_with_other_values_is_a_recipe_and_the_first_is_as_it_was(tmp_path: Path) -> None:
    run = run_of(tmp_path, '"finetune.rank" = {low = 1, high = 32}')
    changed = with_values(run.file.values, {"finetune.rank": 4, "finetune.preferences.beta": 0.2})
    recipe = decoded(run.file, changed)
    assert recipe.finetune is not None
    assert recipe.finetune.preferences is not None
    assert (recipe.finetune.rank, recipe.finetune.preferences.beta, recipe.finetune.batch_size) == (4, 0.2, 8)
    assert "preferences" not in run.file.values["finetune"]


@pytest.mark.parametrize(("better", "rank"), [(True, 4), (False, 16)])
def test_what_was_found_is_followed_only_where_it_is_better(tmp_path: Path, better: bool, rank: int) -> None:
    run = run_of(tmp_path, '"finetune.rank" = {low = 1, high = 32}')
    with pytest.raises(InvalidRequest, match="stage search has not ended"):
        chosen(run.recipe, run)
    run.folder.mkdir()
    run.begin("search")
    run.mark("search", "key", 1.0, Searched(
        objective="validation_loss", best={"finetune.rank": 4}, best_value=1.0, default_value=2.0, trials=3, pruned=0,
        failed=0, better=better))
    found = chosen(run.recipe, run)
    assert found.finetune is not None
    assert found.finetune.rank == rank
