"""A draft model's rows follow the sequences, whatever becomes of what they proposed. The fake engine keeps the tokens
of every row and says what follows from all of them: one wrong token in a row, and the draft is another."""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.engines.base import EngineError, Logits, RowWork
from edged.engines.fake import FakeGenerator, FakeVocab, Knobs
from edged.worker.draft import CATCH_UP_TOKENS, DraftRows, vocabulary_difference
from edged.worker.sequence import Sequence
from edged.worker.speculation import Speculation
from tests.unit.worker.played import play, request, words
from tests.unit.worker.test_speculative_loop import speculating

pytestmark = pytest.mark.unit

KNOBS = Knobs(end_chance=0)


class Strict(FakeGenerator):
    """Steps as engines without mixed ones take them are counted too."""

    def __init__(self, knobs: Knobs) -> None:
        super().__init__(knobs)
        self.steps: list[list[int]] = []

    def step(self, work: Tokens[RowWork]) -> list[Logits]:
        self.steps.append([len(item.tokens) for item in work])
        return super().step(work)


def greedy(tokens: list[int], count: int) -> list[int]:
    engine, found = FakeGenerator(KNOBS), list[int]()
    piece = list(tokens)
    for _ in range(count):
        piece = [int(engine.step([RowWork(0, piece, 1)])[0][-1].argmax())]
        found += piece
    return found


def sequence(tokens: list[int], *, row: int | None = 0) -> Sequence:
    return Sequence("r", 0, "", list(tokens), 1000, row=row)


def rows_of(engine: FakeGenerator) -> DraftRows:
    return DraftRows(engine, engine.vocab.size, token_s=0.001)


@given(st.integers(1, 4), st.integers(1, 3), st.booleans(), st.sampled_from([7, 40, 512]), st.integers(0, 999))
def test_each_draft_is_what_the_model_would_write_whatever_was_kept_of_those_before(
    count: int, rows: int, mixed_step: bool, step_tokens: int, seed: int
) -> None:
    random = Random(seed)
    engine = FakeGenerator(Knobs(end_chance=0, rows=rows, mixed_step=mixed_step, step_tokens=step_tokens,
                                 context=200, kv_tokens=250))
    drafts = rows_of(engine)
    sequences = [sequence(words(random.randint(1, 30), seed=random.randint(0, 2))) for _ in range(count)]
    for _ in range(8):
        wanted = [(each, random.randint(1, 6)) for each in sequences if random.random() < 0.8]
        for (each, asked), draft in zip(wanted, drafts.propose(wanted), strict=True):
            assert draft in ([], greedy(each.tokens, asked))
            assert draft or step_tokens < 512 or rows < count or sum(len(one.tokens) + 6 for one, _ in wanted) > 250
            each.tokens += draft[:random.randint(0, len(draft))] + words(random.randint(1, 2), seed=seed)
        if random.random() < 0.2:
            sequences[0].row = None
            sequences[0] = sequence([*sequences[0].tokens[:random.randint(1, 40)], 65])
    assert engine.kv_used_tokens <= 250


def test_what_was_accepted_whole_is_caught_up_in_the_step_that_drafts_on() -> None:
    engine = Strict(KNOBS)
    drafts = rows_of(engine)
    one = sequence(words(20))
    [draft] = drafts.propose([(one, 4)])
    one.tokens += [*draft, 65]
    drafts.propose([(one, 3)])
    assert engine.steps == [[20], [1], [1], [1], [2], [1], [1]]


def test_a_long_prompt_is_read_in_parts_and_drafted_for_once_it_is_read() -> None:
    engine = Strict(KNOBS)
    drafts = rows_of(engine)
    one = sequence(words(2 * CATCH_UP_TOKENS + 5))
    assert [drafts.propose([(one, 2)]) for _ in range(3)] == [[[]], [[]], [greedy(one.tokens, 2)]]
    assert engine.steps == [[CATCH_UP_TOKENS], [CATCH_UP_TOKENS], [5], [1]]


def test_the_next_turn_of_a_chat_goes_on_from_what_its_row_has() -> None:
    engine = Strict(Knobs(end_chance=0, rows=3))
    drafts = rows_of(engine)
    first, other = sequence(words(30, seed=1)), sequence(words(30, seed=2))
    drafts.propose([(first, 2), (other, 2)])
    first.row = None
    drafts.propose([(sequence([*words(30, seed=1), 65, 66]), 1)])
    assert engine.steps[-1] == [2]


def test_an_engine_that_fails_is_not_asked_again_and_nobody_else_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Strict, work: Tokens[RowWork]) -> list[Logits]:
        self.steps.append([])
        raise EngineError("no")

    monkeypatch.setattr(Strict, "step", fail)
    engine = Strict(KNOBS)
    drafts = rows_of(engine)
    assert drafts.propose([(sequence(words(5)), 2)]) == [[]]
    assert drafts.propose([(sequence(words(5)), 2)]) == [[]]
    assert len(engine.steps) == 1


@pytest.mark.parametrize("mixed_step", [True, False])
def test_a_model_that_drafts_for_itself_is_always_right_and_spares_steps(mixed_step: bool) -> None:
    knobs = Knobs(end_chance=0, mixed_step=mixed_step)

    def with_model(generator: FakeGenerator) -> Speculation:
        speculation = speculating(generator)
        speculation._model = DraftRows(FakeGenerator(knobs), generator.vocab.size, token_s=0.001)
        speculation._model._clock = lambda: 0.0
        return speculation

    # Where a verification is a step of its own, it would hold up the other.
    rows = 2 if mixed_step else 1
    crowd = [request(words(20, seed=number), max_tokens=100, id=f"r{number}") for number in range(rows)]
    plain, drafted = play(crowd, knobs), play(crowd, knobs, speculation=with_model)
    for one in crowd:
        assert drafted[one.id].text == plain[one.id].text
    stats = drafted.stats
    # The rest was found by lookup, which goes first: words by chance may begin like earlier ones.
    assert stats.speculative_accepted_tokens >= 0.95 * stats.speculative_proposed_tokens > 40 * rows
    assert len(drafted.generator.steps) < len(plain.generator.steps) / (2 if mixed_step else 1.2)


def test_another_vocabulary_is_told_apart_by_size_and_by_what_a_token_means() -> None:
    one, other = FakeVocab(), FakeVocab()
    assert vocabulary_difference(one, other) is None
    other.size -= 2
    assert vocabulary_difference(one, other) is None
    other.piece = lambda token: b"?" if token == 70 else one.piece(token)  # type: ignore[method-assign]
    assert vocabulary_difference(one, other) == "its token 70 is b'F', not b'F'"
    other.size = 8
    assert "8 tokens" in str(vocabulary_difference(one, other))
