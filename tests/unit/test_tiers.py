"""Every test is of a tier, or `make test` would pass it over."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

TESTS = Path(__file__).parents[1]


def test_every_file_of_tests_is_marked_with_the_tier_whose_folder_it_is_in() -> None:
    files = sorted(TESTS.glob("*/**/test_*.py"))
    assert len(files) > 100
    assert [str(file.relative_to(TESTS)) for file in files
            if f"pytest.mark.{file.relative_to(TESTS).parts[0]}" not in file.read_text(encoding="utf-8")] == []
