"""Recipes: those that ship, and what a user's own file may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from converters.recipe import load_recipe, shipped
from edged.errors import ConfigError

pytestmark = pytest.mark.unit


def mistake(folder: Path, text: str) -> str:
    file = folder / "mine.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(str(file))
    return str(caught.value).removeprefix(f"{folder}/")


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_is_named_by_target_or_format_and_its_precision(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    first = recipe.target if recipe.format == "onnx" else "gguf"
    assert name.startswith(f"{first}-{recipe.precision.lower()}")


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_asks_more_of_more_bits(name: str) -> None:
    limits = load_recipe(name).limits
    worst = load_recipe("cpu-int4").limits
    assert 1 < limits.perplexity_ratio <= worst.perplexity_ratio
    assert 1 > limits.top1_agreement >= worst.top1_agreement
    assert 0 < limits.kl_divergence <= worst.kl_divergence


def test_every_target_has_a_recipe_or_the_reason_why_not() -> None:
    recipes = [load_recipe(name) for name in shipped()]
    targets = {recipe.target for recipe in recipes if recipe.format == "onnx"}
    assert targets == {"cpu", "cuda", "directml", "webgpu", "tensorrt-rtx", "qnn", "openvino"}
    assert {recipe.name for recipe in recipes if recipe.refused} == {"cpu-fp16", "qnn-int4", "openvino-int4"}


def test_graphs_for_the_cpu_give_logits_where_they_are_wanted_and_others_need_not() -> None:
    assert load_recipe("cpu-int4").positions
    assert not load_recipe("cuda-int4").positions
    assert not load_recipe("gguf-q8_0").positions


def test_a_users_recipe_changes_the_keys_it_names_and_keeps_the_others(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('base = "cpu-int4-plain"\n[builder]\nblock_size = 64\n[limits]\ntop1_agreement = 0.5\n')
    mine, base = load_recipe(str(file)), load_recipe("cpu-int4-plain")
    assert mine.name == "mine"
    assert mine.builder == {**base.builder, "block_size": 64}
    assert mine.limits.top1_agreement == 0.5
    assert mine.limits.perplexity_ratio == base.limits.perplexity_ratio
    assert mine.title == base.title


def test_a_recipe_may_begin_from_a_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "first.toml").write_text('base = "cpu-int8"\ntitle = "mine"\n')
    (tmp_path / "second.toml").write_text('base = "first.toml"\nsmooth = false\n')
    second = load_recipe(str(tmp_path / "second.toml"))
    assert (second.title, second.smooth, second.weights) == ("mine", False, load_recipe("cpu-int8").weights)


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no recipe cpu-int5; did you mean cpu-int[48]\?"):
        load_recipe("cpu-int5")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        load_recipe(str(tmp_path / "none.toml"))


@pytest.mark.parametrize(("text", "told"), [
    ('base = "cpu-int4"\nblock = 3\n', "mine.toml:2:1: block: there is no such key (known here: base, builder"),
    ('base = "cpu-int4"\n[limits]\ntop_1_agreement = 0.5\n',
     "mine.toml:3:1: limits.top_1_agreement: there is no such key; did you mean top1_agreement?"),
    ('base = "cpu-int4"\n[limits]\ntop1_agreement = 85\n',
     "mine.toml:3:18: limits.top1_agreement: must be a number from 0 to 1, not 85"),
    ('base = "cpu-int4"\n[[weights]]\nbits = 5\n', "mine.toml:3:8: weights[0].bits: must be one of 4, 8, 32, not 5"),
    ('base = "cpu-int4"\n[[weights]]\nblock = 32\n', "mine.toml:2:3: weights[0]: lacks bits"),
    ('base = "cpu-int4"\n[[weights]]\nbits = 8\nmatch = "("\n', "mine.toml:4:9: weights[0].match: not a regular exp"),
    ('base = "cpu-int4"\n[[passes]]\nbits = 4\n', "mine.toml:2:3: passes[0]: lacks type, the name of a pass of Olive"),
    ('base = "cpu-int3"\n', "mine.toml:1:8: base: there is no recipe cpu-int3; did you mean cpu-int"),
    ('base = "mine.toml"\n', "mine.toml:1:8: base: is a loop"),
    ('title = "x"\nformat = "onnx"\n', "mine.toml:1:1: lacks precision"),
    ('title = "x"\nformat = "onnx"\nprecision = "int4"\n[limits]\ntop1_agreement = 0.5\n',
     "mine.toml:4:2: limits: lacks perplexity_ratio"),
    ('title = "x"\nformat = "onyx"\n', 'mine.toml:2:10: format: must be one of onnx, gguf, not "onyx"; did you mean'),
    ('title = \n', "mine.toml:1:9: not TOML"),
])
def test_a_mistake_is_told_with_its_place_and_what_is_right(tmp_path: Path, text: str, told: str) -> None:
    assert told in mistake(tmp_path, text)
