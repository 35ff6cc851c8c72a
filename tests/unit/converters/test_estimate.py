from __future__ import annotations

import msgspec
import pytest

from converters.estimate import Needs, Size, estimate, in_sentence, least_parameters, require
from converters.recipe import load_recipe
from edged.errors import InsufficientMemory, InsufficientStorage

pytestmark = pytest.mark.unit

INT4 = load_recipe("cpu-int4")
BILLION = Size(parameters=1_000_000_000, stored_bytes=2_000_000_000)


def test_a_folder_of_this_machine_needs_room_for_the_reference_and_the_result() -> None:
    needs = estimate(BILLION, INT4, gated=True, cores=2)
    assert 4.0e9 < needs.disk_bytes < 6.5e9
    assert 8.0e9 < needs.memory_bytes < 25.0e9


@pytest.mark.parametrize("more", [
    {"dequantized": True}, {"adapters": 1}, {"brought_bytes": 2_000_000_000}, {"parameters": 2_000_000_000},
])
def test_whatever_comes_on_top_needs_more(more: dict[str, int]) -> None:
    plain, larger = (estimate(size, INT4, gated=True, cores=2) for size in (
        BILLION, msgspec.structs.replace(BILLION, **more)))
    assert larger.disk_bytes > plain.disk_bytes


def test_what_is_not_measured_needs_no_reference() -> None:
    assert estimate(BILLION, INT4, gated=False, cores=2).disk_bytes < estimate(
        BILLION, INT4, gated=True, cores=2).disk_bytes


def test_more_cores_take_less_time_and_the_sentence_says_all() -> None:
    two, eight = (estimate(BILLION, INT4, gated=True, cores=cores) for cores in (2, 8))
    assert eight.seconds < two.seconds
    said = in_sentence(BILLION, two)
    assert "1,000 million weights (4.0 GB in 32 bits)" in said
    assert "of disk" in said
    assert "of memory" in said
    assert "minutes" in said


def test_what_cannot_fit_is_refused_with_both_figures() -> None:
    needs = Needs(disk_bytes=5_000_000_000, memory_bytes=9_000_000_000, seconds=60)
    require(needs, free_disk_bytes=6_000_000_000, free_memory_bytes=9_000_000_000)
    with pytest.raises(InsufficientStorage, match=r"5\.0 GB of disk.* 4\.9 GB are free"):
        require(needs, free_disk_bytes=4_900_000_000, free_memory_bytes=9_000_000_000)
    with pytest.raises(InsufficientMemory, match=r"9\.0 GB of memory, and 8\.0 GB are free"):
        require(needs, free_disk_bytes=6_000_000_000, free_memory_bytes=8_000_000_000)


def test_of_a_repository_the_least_is_told_that_it_can_be() -> None:
    parameters = least_parameters({"model.safetensors": 4_000_000_000, "tokenizer.json": 9_999})
    assert parameters == 1_000_000_000
    size = msgspec.structs.replace(BILLION, parameters=parameters, guessed=True)
    assert in_sentence(size, estimate(size, INT4, gated=True, cores=2)).startswith("at least 1,000 million weights")
