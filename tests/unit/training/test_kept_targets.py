"""Which soft targets are computed anew, and which are there already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from training.encode import NO_LOSS, Encoded
from training.student import kept_targets
from training.student.kept_targets import keep
from training.student.teachers import Teachers

pytestmark = pytest.mark.unit

ANSWER_ALONE = [Encoded([1, 2, 3], [NO_LOSS, NO_LOSS, 3]), Encoded([1, 4], [NO_LOSS, 4])]
PROMPT_TOO = [Encoded([1, 2, 3], [1, 2, 3]), Encoded([1, 4], [1, 4])]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Encoded]]:
    """The parts that were computed, without a teacher."""
    found: list[Sequence[Encoded]] = []

    def part(teachers: Teachers, examples: Sequence[Encoded], pad: int) -> bytes:
        found.append(examples)
        return msgspec.json.encode(examples)

    monkeypatch.setattr(kept_targets, "_part", part)
    monkeypatch.setattr(kept_targets, "KeptTargets", lambda parts, encodings: None)
    return found


def test_labels_of_the_prompt_too_are_targets_of_their_own(
    tmp_path: Path, computed: list[Sequence[Encoded]],
) -> None:
    for encodings in (ANSWER_ALONE, ANSWER_ALONE, PROMPT_TOO):
        keep(Teachers((), (1.0,), 1.0), encodings, tmp_path, lambda moment: None, of_teachers="these", pad=0)
    assert computed == [ANSWER_ALONE, PROMPT_TOO]
    [place] = tmp_path.iterdir()
    assert [path.read_bytes() for path in place.iterdir()] == [msgspec.json.encode(PROMPT_TOO)]


@pytest.mark.parametrize(("most", "sizes"), [
    (1000, [16, 16, 8]),
    # Ten answers of 20 tokens and thirty of 3.
    (30, [10, 10, 10, *[1] * 10]), (10, [3] * 10 + [1] * 10)])
def test_a_teacher_reads_no_more_at_once_than_its_logits_allow(most: int, sizes: list[int]) -> None:
    def answer(tokens: int) -> Encoded:
        return Encoded([1] * (tokens + 1), [NO_LOSS, *[1] * tokens])

    examples = [answer(20), answer(3), answer(3), answer(3)] * 10
    batches = list(kept_targets._alike(examples, most))
    assert [len(batch) for batch in batches] == sizes
    assert sorted(number for batch in batches for number in batch) == list(range(40))
