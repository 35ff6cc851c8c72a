from __future__ import annotations

import pytest

from edged.store import preferred as module
from edged.store.entries import Catalog, HubSource, JobProgress, ModelEntry, Variant
from edged.store.preferred import preferred
from tests.unit.hardware import boxes

pytestmark = pytest.mark.unit

GIB = 1024**3


def variant(precision: str, size: int) -> Variant:
    return Variant(engine="llama", precision=precision, size=size,
                   source=HubSource(repo="org/repo", files=(f"{precision}.gguf",)))


CATALOG = Catalog(
    models={"m": ModelEntry(name="m", parameters=4_000_000_000,
                            variants=(variant("Q4_K_M", GIB), variant("Q8_0", 3 * GIB // 2)))},
    aliases={"nick": "m"},
)


def taken(reference: str, budget_bytes: int, monkeypatch: pytest.MonkeyPatch) -> tuple[str | None, list[JobProgress]]:
    monkeypatch.setattr(module, "probe", lambda: boxes.NUC_16_GB)
    told: list[JobProgress] = []
    found = preferred(CATALOG, reference, budget_bytes, told.append)
    return found.precision if found else None, told


def test_with_room_more_bits_are_taken_though_the_catalog_names_fewer_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert taken("m", 16 * GIB, monkeypatch) == ("Q8_0", [])
    assert taken("nick", 16 * GIB, monkeypatch) == ("Q8_0", [])


def test_where_memory_is_short_the_smaller_variant_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert taken("m", 3 * GIB, monkeypatch) == ("Q4_K_M", [])


def test_where_nothing_fits_the_smallest_is_taken_and_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    precision, told = taken("m", GIB, monkeypatch)
    assert precision == "Q4_K_M"
    assert told[0].note is not None
    assert "cannot serve it" in told[0].note


@pytest.mark.parametrize("reference", ["org/repo:Q4_K_M", "./folder", "unknown"])
def test_what_is_no_catalog_model_has_no_variant_to_choose(reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert taken(reference, 16 * GIB, monkeypatch) == (None, [])
