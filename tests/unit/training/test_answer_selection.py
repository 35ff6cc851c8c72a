"""Agreement, equal answers and weights; and the file that keeps all answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import CorruptFile
from training.answers.filters import Sieve
from training.answers.raw import Raw, RawFile
from training.answers.select import Selection, meaning, select
from training.examples import Example, Message
from training.recipe import Filters
from training.reply import Reply, TokenChoice

pytestmark = pytest.mark.unit

EXAMPLE = Example(id="p", prompt=(Message("user", "Hello"),), stratum="greeting", weight=2.0)


def raw(text: str, *, teacher: str = "t", sample: int = 0, finish: str = "stop", ask: str = "") -> Raw:
    reply = Reply(message=Message("assistant", text), finish_reason=finish, prompt_tokens=1, completion_tokens=1)
    return Raw(ask=ask or f"{teacher}{sample}{text}", prompt="p", teacher=teacher, sample=sample, reply=reply)


def selection(*answers: Raw, weights: dict[str, float] | None = None, wanted: int = 0, **filters: Any) -> Selection:
    sifting = Sieve(Filters(**filters), None, None, None)
    return select([EXAMPLE], {"p": answers}, sifting, weights or {"t": 1.0, "u": 1.0},
                  wanted=wanted or len(answers))


def kept(found: Selection) -> list[tuple[str, float]]:
    return [(example.answer.content, example.weight) for example in found.kept if example.answer is not None]


def test_one_answer_becomes_an_example_of_its_teacher() -> None:
    found = selection(raw("Hi"), weights={"t": 0.5})
    assert found.kept == (Example(id="p", prompt=EXAMPLE.prompt, answer=Message("assistant", "Hi"), stratum="greeting",
                                  weight=1.0, teacher="t"),)


def test_equal_answers_are_one_example_and_a_teachers_answers_share_its_weight() -> None:
    found = selection(*(raw(text, sample=number) for number, text in enumerate(["a", "a ", "b", "a"])))
    assert kept(found) == [("a", 1.5), ("b", 0.5)]
    assert found.same == 2


def test_two_teachers_that_say_the_same_both_count() -> None:
    found = selection(raw("a", teacher="t"), raw("a", teacher="u"), weights={"t": 1.0, "u": 0.25})
    assert kept(found) == [("a", 2.5)]
    assert found.kept[0].teacher == "t+u"


@pytest.mark.parametrize(("texts", "agreement", "left"), [
    ("aab", 0.6, ["a"]), ("aab", 0.7, []), ("abc", 0.5, []), ("aaa", 1.0, ["a"]), ("ab", 0.5, ["a"])])
def test_so_many_samples_must_say_the_same(texts: str, agreement: float, left: list[str]) -> None:
    found = selection(*(raw(text, sample=number) for number, text in enumerate(texts)), agreement=agreement)
    assert [text for text, _ in kept(found)] == left
    reasons = {each.reason for each in found.rejected}
    assert reasons == ((set() if len(set(texts)) == 1 else {"minority"}) if left else {"disagrees"})


def test_a_rejected_answer_counts_among_all_but_is_no_party() -> None:
    cut = [raw("a", sample=number, finish="length") for number in (0, 1)]
    found = selection(*cut, raw("b", sample=2), agreement=0.5)
    assert kept(found) == []
    assert [each.reason for each in found.rejected] == ["unfinished", "unfinished", "disagrees"]
    assert found.rejected[2].detail == "1 of 3 say the same"


def test_an_answer_that_did_not_come_counts_among_all() -> None:
    assert kept(selection(raw("a"), wanted=2, agreement=0.5)) == [("a", 2.0)]
    found = selection(raw("a"), wanted=2, agreement=1.0)
    assert kept(found) == []
    assert [(each.reason, each.detail) for each in found.rejected] \
        == [("disagrees", "1 of 2 say the same; 1 did not come")]


def calls(arguments: str) -> Message:
    return Message("assistant", "", ({"id": arguments, "function": {"name": "f", "arguments": arguments}},))


def test_blanks_and_the_spelling_of_json_make_no_difference() -> None:
    assert meaning(Message("assistant", " a  b\n")) == meaning(Message("assistant", "a b"))
    assert meaning(Message("assistant", '{"a": 1, "b": "x y"}')) == meaning(Message("assistant", '{"b":"x y","a":1}'))
    assert meaning(Message("assistant", '"x  y"')) != meaning(Message("assistant", '"x y"'))
    assert meaning(calls('{"a": 1}')) == meaning(calls('{"a":1}')) != meaning(calls('{"a":2}'))


@given(st.lists(st.sampled_from(["a", "b", "c", '{"x": 1}', '{"x":1}']), max_size=8), st.floats(0, 1))
def test_every_answer_is_kept_the_same_as_another_or_rejected(texts: list[str], agreement: float) -> None:
    found = selection(*(raw(text, sample=number) for number, text in enumerate(texts)), agreement=agreement)
    assert len(found.kept) + found.same + len(found.rejected) == len(texts)
    if found.kept:
        assert sum(weight for _, weight in kept(found)) == pytest.approx(EXAMPLE.weight, abs=1e-5)


def test_answers_are_kept_over_a_kill_but_not_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "raw.jsonl"
    with RawFile(path) as file:
        file.add(raw("one", ask="1"))
        file.add(raw("two", ask="2"))
    whole = path.read_bytes()
    for cut in range(len(whole.splitlines()[0]) + 1, len(whole) - 1, 9):
        path.write_bytes(whole[:cut])
        with RawFile(path) as file:
            assert list(file.known) == ["1"]
            file.add(raw("two", ask="2"))
        assert path.read_bytes() == whole


def test_log_probabilities_stay_in_the_file_and_out_of_memory(tmp_path: Path) -> None:
    reply = Reply(message=Message("assistant", "a"), logprobs=(TokenChoice("a", -0.5, (("a", -0.5),)),))
    for _ in range(2):
        with RawFile(tmp_path / "raw.jsonl") as file:
            if not file.known:
                file.add(Raw(ask="1", prompt="p", teacher="t", sample=0, reply=reply))
            assert file.known["1"].reply.logprobs is None
    assert b'"logprob' in (tmp_path / "raw.jsonl").read_bytes()


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "raw.jsonl"
    path.write_bytes(b'{"ask": 1}\n')
    with pytest.raises(CorruptFile, match="line 1 is no answer"):
        RawFile(path)
