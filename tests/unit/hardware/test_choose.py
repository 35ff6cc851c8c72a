from __future__ import annotations

from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.hardware import fit
from edged.hardware.choose import ROOMY_SHARE, Row, choose, chosen
from edged.hardware.facts import Facts, Memory
from edged.store.catalog import load_catalog
from edged.store.entries import LocalSource, Variant
from tests.unit.hardware import boxes

pytestmark = pytest.mark.unit

CATALOG = load_catalog(None).current


def rows(facts: Facts, model: str, *, budget_bytes: int | None = None) -> list[Row[Variant]]:
    entry = CATALOG.models[model]
    return choose(
        facts, entry.variants, parameters=entry.parameters, context=entry.context,
        kv_bytes_per_token=entry.kv_bytes_per_token, budget_bytes=budget_bytes,
    )


def variant(precision: str, engine: str = "llama", size: int | None = None) -> Variant:
    return msgspec.convert(
        {"engine": engine, "precision": precision, "size": size, "source": {"from": "local", "path": "x"}}, Variant
    )


@pytest.mark.parametrize(
    ("box", "model", "engine", "precision"),
    [
        (boxes.PI_5_8_GB, "qwen3-1.7b", "llama", "Q8_0"),
        (boxes.PI_5_8_GB, "qwen3-4b", "llama", "Q4_K_M"),
        (boxes.TWO_CORES_4_GB, "smollm2-135m", "llama", "Q4_1"),
        (boxes.TWO_CORES_4_GB, "llama3.2-1b", "llama", "Q8_0"),
        (boxes.TWO_CORES_4_GB, "qwen3-1.7b", "llama", "Q4_K_M"),
        (boxes.JETSON_8_GB, "smollm3-3b", "llama", "Q4_K_M"),
        (boxes.NUC_16_GB, "qwen3-8b", "llama", "Q4_K_M"),
        (boxes.NUC_16_GB, "phi4-mini", "llama", "Q4_K_M"),
        (boxes.LAPTOP_32_GB, "qwen3-8b", "llama", "Q4_K_M"),
    ],
)
def test_each_box_gets_the_largest_good_precision_with_room_that_stays_brisk(
    box: Facts, model: str, engine: str, precision: str
) -> None:
    best = rows(box, model)[0]
    assert best.fits
    assert (best.engine, best.variant.precision) == (engine, precision)


def test_eight_billion_weights_do_not_fit_four_gigabytes_and_the_reason_says_by_how_much() -> None:
    told = rows(boxes.TWO_CORES_4_GB, "qwen3-8b")
    assert not any(row.fits for row in told)
    assert chosen(told) is None
    assert told[0].reason == "needs 5.3 GiB with only 2048 tokens of context, more than the 3.3 GiB that can be used"


def test_a_shorter_context_is_offered_before_a_model_is_refused() -> None:
    told = rows(boxes.TWO_CORES_4_GB, "qwen3-4b")
    best = told[0]
    assert best.fits
    assert fit.LEAST_CONTEXT <= best.context < fit.USUAL_CONTEXT
    assert best.reason == f"fits with {best.context} tokens of context"
    assert best.memory_bytes is not None
    assert best.memory_bytes <= fit.usable_bytes(boxes.TWO_CORES_4_GB.memory)


def test_an_engine_that_is_not_installed_is_refused_with_the_reason() -> None:
    told = rows(boxes.facts(32, 8, ort=False), "phi4-mini")
    refused = [row for row in told if not row.fits]
    assert [(row.engine, row.reason) for row in refused] == [("ort", "the ort engine is not installed")]
    assert rows(boxes.facts(32, 8, llama=False), "phi4-mini")[0].engine == "ort"


def test_precisions_of_one_class_are_parted_by_engine() -> None:
    told = choose(boxes.NUC_16_GB, [variant("int4", "ort"), variant("Q4_K_M")], parameters=10**9)
    assert [row.engine for row in told] == ["llama", "ort"]


def test_more_than_eight_bits_is_not_preferred() -> None:
    told = choose(boxes.NUC_16_GB, [variant("F16"), variant("Q8_0"), variant("Q6_K")], parameters=10**9)
    assert [row.variant.precision for row in told] == ["Q8_0", "F16", "Q6_K"]


def test_a_tight_four_bit_goes_before_a_roomy_two_bit() -> None:
    told = choose(
        boxes.NUC_16_GB, [variant("Q2_K", size=boxes.GIB), variant("Q4_K_M", size=2 * boxes.GIB)],
        kv_bytes_per_token=1, context=4096, budget_bytes=int(2.5 * boxes.GIB),
    )
    assert [row.variant.precision for row in told] == ["Q4_K_M", "Q2_K"]


def test_unknown_size_comes_after_what_is_known_to_fit() -> None:
    told = choose(boxes.NUC_16_GB, [variant("odd"), variant("Q4_0", size=boxes.GIB)])
    assert [(row.variant.precision, row.fits) for row in told] == [("Q4_0", True), ("odd", True)]
    assert told[1].memory_bytes is None


def test_a_model_without_variants_has_no_choice() -> None:
    assert choose(boxes.NUC_16_GB, []) == []
    assert chosen([]) is None


@pytest.mark.parametrize(
    ("precision", "bits"),
    [("Q4_K_M", 4.9), ("q8_0", 8.5), ("bf16", 16.0), ("IQ3_XXS", 3.5), ("int4", 5.0), ("Q4_K_L", 4.5), ("odd", None)],
)
def test_bits_are_told_by_the_name_of_the_precision(precision: str, bits: float | None) -> None:
    assert fit.bits_per_weight(precision) == bits


def test_estimated_sizes_are_near_the_known_ones() -> None:
    """Of every one-file variant of the catalog with a known size; embeddings make small models larger."""
    for entry in CATALOG.models.values():
        for one in entry.variants:
            if one.size is not None and one.engine == "llama":
                estimate = fit.weights_bytes(None, entry.parameters, one.precision)
                assert estimate is not None
                assert 0.6 < estimate / one.size < 1.15, (entry.name, one.precision)


def test_assumed_kv_is_an_upper_bound_for_nearly_all_of_the_catalog() -> None:
    known = [(entry.parameters, entry.kv_bytes_per_token) for entry in CATALOG.models.values()]
    bound = [fit.assumed_kv_bytes_per_token(parameters) >= (kv or 0) * 0.9 for parameters, kv in known]
    assert sum(bound) >= len(bound) - 1


def test_a_container_limit_counts_instead_of_the_whole_memory() -> None:
    free = fit.usable_bytes(Memory(total=64 * boxes.GIB, available=50 * boxes.GIB, limit=2 * boxes.GIB))
    assert free == 2 * boxes.GIB - fit.RESERVE_BYTES
    assert fit.usable_bytes(Memory(total=100 * boxes.MIB, available=0)) == 0


_precisions = st.sampled_from(["Q2_K", "Q4_0", "Q4_K_M", "Q5_K_M", "Q8_0", "F16", "int4", "odd"])
_variants = st.lists(
    st.builds(variant, _precisions, st.sampled_from(["llama", "ort"]), st.none() | st.integers(1, 40 * boxes.GIB)),
    max_size=6,
)


@given(_variants, st.integers(0, 64), st.none() | st.integers(10**8, 10**10), st.none() | st.integers(16, 10**6))
def test_what_fits_is_within_the_budget_and_ranked_first(
    variants: list[Variant], gib: int, parameters: int | None, context: int | None
) -> None:
    budget = gib * boxes.GIB
    told = choose(boxes.NUC_16_GB, variants, parameters=parameters, context=context, budget_bytes=budget)
    assert len(told) == len(variants)
    assert [row.fits for row in told] == sorted((row.fits for row in told), reverse=True)
    for row in told:
        assert row.reason
        if row.fits and row.memory_bytes is not None:
            assert row.memory_bytes <= budget
        if not row.fits and row.memory_bytes is not None:
            assert row.memory_bytes > budget


@given(_variants, st.randoms())
def test_the_choice_does_not_depend_on_the_order_of_variants(variants: list[Variant], random: Random) -> None:
    shuffled = list(variants)
    random.shuffle(shuffled)
    told = [choose(boxes.PI_5_8_GB, some, parameters=10**9) for some in (variants, shuffled)]
    keys = [[(row.engine, row.variant.precision, row.memory_bytes) for row in rows] for rows in told]
    assert keys[0] == keys[1]


def test_local_variants_are_forms_too() -> None:
    one = Variant(engine="fake", precision="none", source=LocalSource(path="x"), size=1)
    assert chosen(choose(boxes.PI_5_8_GB, [one])) is one
    assert 0 < ROOMY_SHARE < 1
