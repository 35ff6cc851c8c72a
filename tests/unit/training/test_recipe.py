"""What a recipe may not say, told before anything is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from edged.errors import ConfigError
from training.recipe import load_recipe

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("seed", [-1, 2**32, 20261231235959])
def test_a_seed_that_numpy_does_not_take_is_refused_before_anything_is_paid_for(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "home.toml"
    path.write_text(f'name = "home"\nbase = "./base"\nseed = {seed}\n[data]\ntrain = ["a.jsonl"]\n')
    with pytest.raises(ConfigError, match=r"home\.toml:3.*seed"):
        load_recipe(path)
