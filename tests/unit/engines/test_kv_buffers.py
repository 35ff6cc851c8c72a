"""KV of rows in plain memory: copies move what is held, and nothing is resident before it is used."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.engines.kv_buffers import KvBuffers, Layer

pytestmark = pytest.mark.unit

SLOTS, CONTEXT = 4, 12
LAYERS = [Layer("past.0", "present.0", np.float32, 2, 3), Layer("past.1", "present.1", np.int8, 1, 5)]

lengths = st.integers(0, CONTEXT)
slots = st.integers(0, SLOTS - 1)


def filled() -> KvBuffers:
    kv = KvBuffers(LAYERS, SLOTS, CONTEXT)
    for array in kv.arrays:
        array[:] = np.arange(array.size).reshape(array.shape) % 127
    return kv


@given(slots, slots, lengths)
def test_a_copy_is_the_beginning_of_its_source_and_touches_nothing_else(source: int, target: int, length: int) -> None:
    kv, before = filled(), filled().arrays
    kv.copy(source, target, length)
    for array, old in zip(kv.arrays, before, strict=True):
        expected = old.copy()
        expected[target, :, :length] = old[source, :, :length]
        assert np.array_equal(array, expected)


@given(slots, slots, lengths, lengths)
def test_slots_that_are_swapped_hold_what_the_other_held(one: int, other: int, length: int, other_length: int) -> None:
    if one == other:
        return
    kv, before = filled(), filled().arrays
    kv.swap(one, length, other, other_length)
    for array, old in zip(kv.arrays, before, strict=True):
        assert np.array_equal(array[other, :, :length], old[one, :, :length])
        assert np.array_equal(array[one, :, :other_length], old[other, :, :other_length])
        for slot in {*range(SLOTS)} - {one, other}:
            assert np.array_equal(array[slot], old[slot])


@given(slots, slots, lengths)
def test_what_was_read_can_be_written_to_any_slot_later(source: int, target: int, length: int) -> None:
    kv, before = filled(), filled().arrays
    parts = kv.read(source, length)
    for array in kv.arrays:
        array[:] = 0
    kv.write(target, length, parts)
    for array, old in zip(kv.arrays, before, strict=True):
        assert np.array_equal(array[target, :, :length], old[source, :, :length])
        assert not array[target, :, length:].any()


def test_only_pages_that_hold_tokens_are_resident() -> None:
    """Found in the first version: numpy asks for huge pages, and the first token of a row took 2 MiB of each head."""
    before = resident_bytes()
    kv = KvBuffers([Layer("past", "present", np.float32, 3, 64)] * 8, 8, 8192)
    for array in kv.arrays:
        array[:, :, :4] = 1
    assert resident_bytes() - before < 8 << 20


@given(slots, lengths, lengths)
def test_what_is_kept_of_a_row_and_all_of_the_others_stay_when_its_rest_is_forgotten(
    slot: int, keep: int, length: int,
) -> None:
    kv, before = filled(), filled().arrays
    kv.forget(slot, min(keep, length), length)
    for array, old in zip(kv.arrays, before, strict=True):
        assert np.array_equal(array[slot, :, :keep], old[slot, :, :keep])
        for other in {*range(SLOTS)} - {slot}:
            assert np.array_equal(array[other], old[other])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes single pages back")
def test_a_row_that_was_dropped_gives_its_memory_back() -> None:
    kv = KvBuffers([Layer("past", "present", np.float32, 3, 64)] * 8, 8, 8192)
    before = resident_bytes()
    for array in kv.arrays:
        array[:2, :, :4096] = 1
    assert resident_bytes() - before > 45 << 20
    kv.forget(0, 0, 4096)
    kv.forget(1, 2048, 4096)
    assert resident_bytes() - before < 16 << 20
    for array in kv.arrays:
        assert (array[1, :, :2048] == 1).all()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_two_threads_move_what_one_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edged.engines.kv_buffers._PARALLEL_BYTES", 0)
    kv, before = filled(), filled().arrays
    kv.copy(0, 1, 7)
    kv.write(2, 5, kv.read(3, 5))
    for array, old in zip(kv.arrays, before, strict=True):
        expected = old.copy()
        expected[1, :, :7] = old[0, :, :7]
        expected[2, :, :5] = old[3, :, :5]
        assert np.array_equal(array, expected)
    kv.release()


def test_kv_of_another_graph_is_refused() -> None:
    kv = filled()
    with pytest.raises(ValueError, match="1 parts of KV for 2 buffers"):
        kv.write(0, 3, kv.read(0, 3)[:1])
