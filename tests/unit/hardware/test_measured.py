"""The figures' file, and what figures do to a choice."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.hardware.choose import choose, chosen
from edged.hardware.measured import FILE, KEPT_MACHINES, NOTHING, Measured, Record, Speed, Verdict
from edged.store.entries import LocalSource, Variant
from edged.types import Tuning
from tests.unit.hardware import boxes

pytestmark = pytest.mark.unit

FAILED = Verdict(passed=False, reason="cuda answers wrongly: the same best token at 40% of positions, 90% is the least")


def speed(decode: float, decode_many: float | None = None, prefill: float = 1000.0) -> Speed:
    return Speed(prefill=prefill, decode=decode, decode_many=decode_many or decode, streams=8, threads=4, device="cpu",
                 engine_version="fake-1", taken=1.0)


def form(precision: str, size_gib: float = 1.0) -> Variant:
    return Variant(engine="llama", precision=precision, size=int(size_gib * boxes.GIB), source=LocalSource(path="x"))


def test_figures_and_verdicts_are_kept_by_machine_version_and_provider(tmp_path: Path) -> None:
    mine = Measured(tmp_path, "a" * 12)
    mine.record("d1", "cuda", speed=speed(50))
    mine.record("d1", "cuda", verdict=FAILED)
    mine.record("d1", "cpu", speed=speed(10))
    again = Measured(tmp_path, "a" * 12)
    assert again.get("d1", "cuda") == Record(speed=speed(50), verdict=FAILED)
    assert again.get("d1", "cpu").speed == speed(10)
    assert again.of("d1") == {"cuda": Record(speed=speed(50), verdict=FAILED), "cpu": Record(speed=speed(10))}
    assert again.of("d2") == {}
    assert again.get("d2", "cpu") is NOTHING
    assert Measured(tmp_path, "b" * 12).get("d1", "cuda") is NOTHING
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".{FILE}.lock", FILE]


def test_a_new_figure_replaces_the_old_one_and_leaves_the_verdict(tmp_path: Path) -> None:
    mine = Measured(tmp_path, "a" * 12)
    mine.record("d1", "cuda", speed=speed(50), verdict=FAILED)
    mine.record("d1", "cuda", speed=speed(60))
    assert mine.get("d1", "cuda") == Record(speed=speed(60), verdict=FAILED)


def test_tuning_is_kept_beside_figures_until_it_is_forgotten(tmp_path: Path) -> None:
    mine, tuning = Measured(tmp_path, "a" * 12), Tuning(threads=1, options={"flash_attention": False})
    mine.record("d1", "cpu", tuning=tuning)
    mine.record("d1", "cpu", speed=speed(60))
    assert Measured(tmp_path, "a" * 12).get("d1", "cpu") == Record(speed=speed(60), tuning=tuning)
    assert mine.forget_tuning("d1", "cpu") == tuning
    assert mine.forget_tuning("d1", "cpu") is None
    assert mine.forget_tuning("d2", "cpu") is None
    assert Measured(tmp_path, "a" * 12).get("d1", "cpu") == Record(speed=speed(60))


@pytest.mark.parametrize("content", [b"", b"{", b'{"machines": 3}', b"\xff\xfe"])
def test_a_damaged_file_counts_as_nothing_measured_and_is_written_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    mine = Measured(tmp_path, "a" * 12)
    assert mine.get("d1", "cpu") is NOTHING
    mine.record("d1", "cpu", speed=speed(1))
    assert Measured(tmp_path, "a" * 12).get("d1", "cpu").speed == speed(1)


def test_a_home_that_is_not_there_keeps_figures_for_this_process_only(tmp_path: Path) -> None:
    mine = Measured(tmp_path / "gone", "a" * 12)
    mine.record("d1", "cpu", speed=speed(1))
    assert mine.get("d1", "cpu").speed == speed(1)
    assert Measured(tmp_path / "gone", "a" * 12).get("d1", "cpu") is NOTHING


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    def write(provider: str) -> None:
        mine = Measured(tmp_path, "a" * 12)
        for number in range(20):
            mine.record(f"d{number}", provider, speed=speed(number + 1))

    threads = [Thread(target=write, args=(provider,)) for provider in ("cpu", "cuda", "vulkan")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    read = Measured(tmp_path, "a" * 12).known()
    assert all(read(f"d{number}", provider).speed == speed(number + 1)
               for number in range(20) for provider in ("cpu", "cuda", "vulkan"))


def test_a_store_that_was_on_many_machines_remembers_the_last_ones(tmp_path: Path) -> None:
    for number in range(KEPT_MACHINES + 3):
        Measured(tmp_path, f"{number:012}").record("d1", "cpu", speed=speed(number + 1))
    Measured(tmp_path, f"{5:012}").record("d1", "cpu", verdict=FAILED)
    kept = [number for number in range(KEPT_MACHINES + 3)
            if Measured(tmp_path, f"{number:012}").get("d1", "cpu") is not NOTHING]
    assert kept == list(range(3, KEPT_MACHINES + 3))
    assert os.stat(tmp_path / FILE).st_size < 10_000


def test_the_words_of_a_figure_are_for_people() -> None:
    assert speed(118.4, 240).words() == "118 tokens/s at one stream, 240 at eight"
    assert speed(3.14, 9.99).words() == "3.1 tokens/s at one stream, 10.0 at eight"


rates = st.floats(0.1, 1e5)


@given(rates, rates, rates, st.floats(1.01, 10))
def test_more_tokens_a_second_of_any_kind_rank_better(prefill: float, one: float, many: float, factor: float) -> None:
    base = speed(one, many, prefill).seconds
    assert speed(one * factor, many, prefill).seconds < base
    assert speed(one, many * factor, prefill).seconds < base
    assert speed(one, many, prefill * factor).seconds < base


def test_a_figure_overrules_the_guess_and_is_the_reason() -> None:
    forms = [form("Q8_0"), form("Q4_K_M")]
    assert chosen(choose(boxes.NUC_16_GB, forms, parameters=10**9)) is forms[0]
    figures = {id(forms[0]): Record(speed=speed(60, 90)), id(forms[1]): Record(speed=speed(118, 240))}
    rows = choose(boxes.NUC_16_GB, forms, parameters=10**9, known=lambda one, _: figures[id(one)])
    assert [row.variant.precision for row in rows] == ["Q4_K_M", "Q8_0"]
    assert rows[0].reason == "measured here: 118 tokens/s at one stream, 240 at eight"


def test_what_was_measured_goes_before_what_is_guessed() -> None:
    forms = [form("Q8_0"), form("Q4_K_M")]
    rows = choose(boxes.NUC_16_GB, forms, parameters=10**9,
                  known=lambda one, _: Record(speed=speed(5)) if one is forms[1] else NOTHING)
    assert [row.variant.precision for row in rows] == ["Q4_K_M", "Q8_0"]


def test_a_device_that_answered_wrongly_is_rejected_with_its_verdict_however_fast_it_is() -> None:
    rows = choose(boxes.NUC_16_GB, [form("Q8_0"), form("Q4_K_M")], parameters=10**9, known=lambda one, _: Record(
        speed=speed(900), verdict=FAILED) if one.precision == "Q8_0" else NOTHING)
    assert [(row.variant.precision, row.fits) for row in rows] == [("Q4_K_M", True), ("Q8_0", False)]
    assert rows[1].reason == FAILED.reason


def test_what_the_caller_bars_is_rejected_with_the_callers_reason() -> None:
    rows = choose(boxes.NUC_16_GB, [form("Q8_0"), form("Q4_K_M")], parameters=10**9,
                  barred=lambda one: "its gate did not pass" if one.precision == "Q8_0" else None)
    assert [(row.variant.precision, row.fits) for row in rows] == [("Q4_K_M", True), ("Q8_0", False)]
    assert rows[1].reason == "its gate did not pass"


def test_no_figure_makes_room_where_there_is_no_memory() -> None:
    rows = choose(boxes.NUC_16_GB, [form("Q8_0", 40)], parameters=10**9, known=lambda *_: Record(speed=speed(900)))
    assert not rows[0].fits
    assert rows[0].reason.startswith("needs 40")
