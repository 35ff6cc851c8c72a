"""The fake engine keeps the promises of the seam, and notices when those above it do not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.engines.base import EngineError, RowWork
from edged.engines.fake import FakeGenerator, Knobs, load
from edged.errors import InsufficientMemory, LoadFailed
from edged.types import LoadSpec

pytestmark = pytest.mark.unit

tokens = st.lists(st.integers(0, 304), min_size=1, max_size=20)


@given(tokens, st.integers(1, 19))
def test_logits_depend_on_the_tokens_before_and_on_nothing_else(row: list[int], cut: int) -> None:
    whole, pieces = FakeGenerator(Knobs()), FakeGenerator(Knobs(rows=3))
    [logits] = whole.step([RowWork(0, row, len(row))])
    pieces.step([RowWork(1, [7, 8, 9], 0)])
    parts = [pieces.step([RowWork(2, part, len(part))])[0] for part in (row[:cut], row[cut:]) if part]
    assert np.array_equal(np.concatenate(parts), logits)


@given(tokens, tokens)
def test_other_tokens_before_give_other_logits(left: list[int], right: list[int]) -> None:
    engine = FakeGenerator(Knobs())
    first, second = engine.step([RowWork(0, [*left, 260], 1), RowWork(1, [*right, 260], 1)])
    assert np.array_equal(first, second) == (left == right)


def test_a_fork_a_trim_and_a_stash_keep_the_tokens() -> None:
    engine = FakeGenerator(Knobs())
    row = [260, 261, 262, 263]
    engine.step([RowWork(0, row, 0)])
    assert engine.fork(0, 1, 3) == 3
    assert engine.trim(0, 2) == 2
    state = engine.stash(0)
    assert engine.trim(0, 0) == 0
    assert engine.unstash(0, state) == state.tokens == 2
    again = engine.step([RowWork(0, [262, 263, 270], 1), RowWork(1, [263, 270], 1)])
    [straight] = FakeGenerator(Knobs()).step([RowWork(0, [*row, 270], 1)])
    assert all(np.array_equal(logits, straight) for logits in again)


@pytest.mark.parametrize(("work", "said"), [
    ([RowWork(0, [1] * 40, 0)], "over its context"),
    ([RowWork(0, [1] * 17, 0), RowWork(0, [1], 0)], "twice"),
    ([RowWork(0, [1] * 30, 0), RowWork(1, [1] * 30, 0)], "step of 60"),
    ([RowWork(0, [1], 2)], "2 logits"),
    ([RowWork(0, [], 0)], "0 tokens"),
    ([RowWork(2, [1] * 10, 0)], "no KV left"),
])
def test_what_no_engine_takes_is_refused(work: list[RowWork], said: str) -> None:
    engine = FakeGenerator(Knobs(context=32, rows=3, kv_tokens=64, step_tokens=50))
    if work[0].row == 2:
        engine.step([RowWork(0, [1] * 25, 0), RowWork(1, [1] * 25, 0)])
        engine.step([RowWork(0, [1] * 5, 0)])
    with pytest.raises(EngineError, match=said):
        engine.step(work)


def test_without_mixed_steps_one_step_is_many_rows_of_one_token_or_one_row_of_many() -> None:
    engine = FakeGenerator(Knobs(mixed_step=False))
    engine.step([RowWork(0, [1, 2], 0)])
    engine.step([RowWork(0, [1], 1), RowWork(1, [1], 1)])
    with pytest.raises(EngineError):
        engine.step([RowWork(0, [1], 1), RowWork(1, [1, 2], 1)])


def test_a_fork_into_a_row_in_use_and_of_what_is_not_there_is_noticed() -> None:
    engine = FakeGenerator(Knobs())
    engine.step([RowWork(0, [1, 2], 0), RowWork(1, [1], 0)])
    with pytest.raises(EngineError, match="not empty"):
        engine.fork(0, 1, 1)
    with pytest.raises(EngineError, match="2 tokens"):
        engine.fork(0, 2, 3)
    with pytest.raises(EngineError, match="not empty"):
        engine.unstash(1, engine.stash(0))


def test_what_does_not_fit_does_not_come_back() -> None:
    engine = FakeGenerator(Knobs(rows=2, context=10, kv_tokens=10))
    engine.step([RowWork(0, [1] * 6, 0)])
    state = engine.stash(0)
    assert engine.unstash(1, state) == 0


def test_it_fails_and_goes_mad_when_told_to() -> None:
    engine = FakeGenerator(Knobs(fail_at_token=2, nan_at_token=3))
    engine.step([RowWork(0, [1, 2], 1)])
    assert np.isfinite(engine.step([RowWork(0, [1], 1)])[0]).all()
    with pytest.raises(EngineError):
        engine.step([RowWork(0, [1], 1)])
    assert engine.kv_used_tokens > 3  # the row is undefined now
    assert np.isnan(engine.step([RowWork(1, [1], 1)])[0]).all()
    assert np.isfinite(engine.step([RowWork(1, [1, 2], 1)])[0]).all()


def test_half_a_character_is_followed_by_the_other_half() -> None:
    engine = FakeGenerator(Knobs())
    halves = [token for token in range(260, engine.vocab.size) if engine.vocab.piece(token) in (b"\xf0\x9f", b"\xe8")]
    assert halves
    for token in halves:
        [[logits]] = engine.step([RowWork(0, [token], 1)])
        assert (engine.vocab.piece(token) + engine.vocab.piece(int(logits.argmax()))).decode() in ("🙂", "語")
        engine.trim(0, 0)


@given(st.text(max_size=40))
def test_the_pieces_of_a_text_are_the_text(text: str) -> None:
    vocab = FakeGenerator(Knobs()).vocab
    plain = vocab.tokenize(text, special=False, bos=False)
    assert b"".join(map(vocab.piece, plain)) == text.encode("utf-8", "surrogatepass")


def test_texts_of_special_tokens_are_these_tokens_only_where_asked_for() -> None:
    vocab = FakeGenerator(Knobs()).vocab
    assert vocab.tokenize("a<|im_end|>", special=True, bos=True) == [256, 97, 259]
    assert len(vocab.tokenize("a<|im_end|>", special=False, bos=False)) == 11


def spec(folder: Path, said: object, **fields: object) -> LoadSpec:
    (folder / "fake.json").write_text(json.dumps(said))
    known: dict[str, object] = {"name": "fake", "version": "1", "digest": "0", "engine": "fake"}
    return LoadSpec(path=str(folder), file="fake.json", **known, **fields)  # type: ignore[arg-type]


def test_options_go_before_the_file_and_the_spec_bounds_them(tmp_path: Path) -> None:
    loaded = load(spec(tmp_path, {"rows": 3, "context": 64}, options={"rows": 5}, context=32), lambda _: None)
    assert (loaded.generator.caps.rows, loaded.generator.caps.context) == (5, 32)


def test_a_row_is_never_larger_than_the_pool() -> None:
    assert FakeGenerator(Knobs(context=100, kv_tokens=64)).caps.context == 64


@pytest.mark.parametrize("said", [[], {"rows": "many"}, {"colour": 1}])
def test_a_bad_file_is_refused_by_name(tmp_path: Path, said: object) -> None:
    with pytest.raises(LoadFailed, match=r"fake\.json"):
        load(spec(tmp_path, said), lambda _: None)


def test_refusals_are_told(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="too odd"):
        load(spec(tmp_path, {"refuse": "too odd"}), lambda _: None)
    with pytest.raises(InsufficientMemory):
        load(spec(tmp_path, {"refuse_memory": True}), lambda _: None)


def test_a_cheap_model_goes_on_by_the_length_of_its_row_alone() -> None:
    generator = FakeGenerator(Knobs(cheap=True, rows=2))
    one, other = generator.step([RowWork(0, [1, 2, 3], 1), RowWork(1, [7, 8, 9], 2)])
    assert one.shape == (1, generator.vocab.size)
    assert other.shape == (2, generator.vocab.size)
    assert one[-1].argmax() == other[-1].argmax()
    assert other[0].argmax() != other[-1].argmax()
