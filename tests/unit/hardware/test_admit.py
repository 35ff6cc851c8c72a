from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.hardware.admit import Measure, Prove, Refuse, Serve, next_step
from edged.hardware.measured import NOTHING, Record, Verdict
from edged.hardware.place import Place
from tests.unit.hardware.test_measured import FAILED, speed

pytestmark = pytest.mark.unit

CPU = Place("llama", "cpu", 4, None)
CUDA = Place("llama", "cuda", 4, None)
VULKAN = Place("llama", "vulkan", 4, None)
PASSED = Verdict(passed=True, reason="cuda computes what the processor does")


def known(**records: Record) -> dict[str, Record]:
    return {"cpu": NOTHING, "cuda": NOTHING, "vulkan": NOTHING} | records


def test_the_processor_alone_serves_at_once() -> None:
    step = next_step([CPU], known().__getitem__, {})
    assert step == Serve(CPU, "cpu is the only one that can run it here")


def test_a_device_is_proved_before_it_serves_though_nothing_else_could() -> None:
    refused = replace(CPU, refused="runs on cpu, and cuda is required")
    assert next_step([CUDA, refused], known().__getitem__, {}) == Prove(CUDA, measure=False)
    step = next_step([CUDA, refused], known(cuda=Record(verdict=PASSED)).__getitem__, {})
    assert step == Serve(CUDA, "cuda is the only one that can run it here (runs on cpu, and cuda is required)")


def test_of_several_each_is_proved_then_measured_and_the_fastest_serves() -> None:
    places, records = [CUDA, VULKAN, CPU], known()
    assert next_step(places, records.__getitem__, {}) == Prove(CUDA, measure=True)
    records["cuda"] = Record(verdict=PASSED, speed=speed(50))
    assert next_step(places, records.__getitem__, {}) == Prove(VULKAN, measure=True)
    records["vulkan"] = Record(verdict=FAILED)
    assert next_step(places, records.__getitem__, {}) == Measure(CPU)
    records["cpu"] = Record(speed=speed(60))
    step = next_step(places, records.__getitem__, {})
    assert step == Serve(CPU, "measured here: 60 tokens/s at one stream, 60 at eight (cuda: 50 tokens/s at one stream, "
                              "50 at eight)")


def test_nothing_left_is_refused_with_every_reason() -> None:
    refused = replace(CPU, refused="runs on cpu, and cuda is required")
    assert next_step([CUDA, refused], known(cuda=Record(verdict=FAILED)).__getitem__, {}) == Refuse(
        (FAILED.reason, "runs on cpu, and cuda is required"))
    assert next_step([CUDA, refused], known().__getitem__, {"cuda": "cuda could not be tried: no memory"}) == Refuse(
        ("cuda could not be tried: no memory", "runs on cpu, and cuda is required"))


records_ = st.builds(
    Record, speed=st.none() | st.floats(1, 1000).map(speed), verdict=st.none() | st.sampled_from([PASSED, FAILED]))


@given(st.permutations([CPU, CUDA, VULKAN]), st.fixed_dictionaries({"cpu": records_, "cuda": records_,
                                                                    "vulkan": records_}), st.booleans())
def test_what_serves_is_never_unproved_and_every_way_ends(
    places: list[Place], records: dict[str, Record], wrong: bool
) -> None:
    """A trial always adds what was lacking, or a failure."""
    failed: dict[str, str] = {}
    for _ in range(12):
        step = next_step(places, records.__getitem__, failed)
        match step:
            case Prove(place=place, measure=measure):
                records[place.provider] = Record(
                    verdict=FAILED if wrong else PASSED,
                    speed=speed(10) if measure else records[place.provider].speed)
            case Measure(place=place) if wrong:
                failed[place.provider] = "it died"
            case Measure(place=place):
                records[place.provider] = replace_speed(records[place.provider])
            case Serve(place=place):
                verdict = records[place.provider].verdict
                assert place.provider == "cpu" or (verdict is not None and verdict.passed)
                return
            case Refuse(reasons=reasons):
                assert len(reasons) == 3
                return
    raise AssertionError("it goes round and round")


def replace_speed(record: Record) -> Record:
    return Record(speed=speed(10), verdict=record.verdict)
