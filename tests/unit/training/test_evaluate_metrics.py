"""What answers are compared by, and what the comparison comes to."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.evaluate.choice import choose
from training.evaluate.figures import differences, figures_of, unseen_points, verdict_of
from training.evaluate.items import Item
from training.evaluate.meaning import NoJson, label_of, same, text_of, value_of
from training.evaluate.metrics import METRICS, kinds
from training.examples import Example, Message, identity
from training.recipe import Evaluate, Judge, Metric

pytestmark = pytest.mark.unit

CALL = {"id": "1", "type": "function", "function": {"name": "light", "arguments": '{"on": true, "room": "hall"}'}}


def item(expected: str, said: str | None, **more: object) -> Item:
    return Item(id=f"{expected}{said}", expected=Message("assistant", expected),
                said=None if said is None else Message("assistant", said), **more)  # type: ignore[arg-type]


def figure(name: Metric, items: list[Item], labels: tuple[str, ...] = (), number: int = 0) -> float:
    kind = METRICS[name][number]
    return float(kind.figure(kind.statistics(items, labels).sum(axis=0)))


def test_exact_match_sets_white_space_aside_and_nothing_else() -> None:
    assert figure("exact_match", [item("a b", " a\n b "), item("a", "A"), item("a", None), item("a", "a.")]) == 25


def test_json_is_compared_as_values() -> None:
    items = [item('{"a": 1, "b": [1, 2]}', ' {"b":[1,2],"a":1.0}'), item('{"a": 1}', '{"a": true}'),
             item('{"a": 1}', '{"a": 1} and more'), item('{"a": [1, 2]}', '{"a": [2, 1]}'), item('{"a": 1}', None)]
    assert figure("json_match", items) == 20
    assert figure("json_valid", items) == 60


def test_json_metrics_pass_over_items_whose_answer_is_no_json() -> None:
    items = [item('{"a": 1}', '{"a": 1}'), item("in words", "in words")]
    assert figure("json_match", items) == figure("json_valid", items) == 100
    assert math.isnan(figure("json_match", items[1:]))


def test_calls_are_right_by_name_and_arguments_in_order() -> None:
    def called(*arguments: str, name: str = "light") -> Message:
        return Message("assistant", "", tuple(
            {"id": "x", "type": "function", "function": {"name": name, "arguments": each}} for each in arguments))

    expected = Message("assistant", "", (CALL,))
    said = [called('{"room":"hall","on":true}'), called('{"room":"hall","on":true}', name="lamp"),
            called('{"room":"hall"}'), called("no json"), called('{"room":"hall","on":true}', "{}")]
    items = [Item(id=str(at), expected=expected, said=each) for at, each in enumerate(said)]
    assert [METRICS["json_match"][0].statistics([one], ()).tolist() for one in items] == [
        [[1, 1]], [[0, 1]], [[0, 1]], [[0, 1]], [[0, 1]]]
    assert text_of(said[0]) == text_of(expected)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3), max_leaves=4)


@given(json_values, json_values)
def test_json_equality_is_one(one: object, other: object) -> None:
    assert same(one, one)
    assert same(one, other) == same(other, one)


@pytest.mark.parametrize("text", ["", "{", "{'a': 1}", "NaN", '{"a": 1}{', "[" * 5000])
def test_what_is_no_json_is_told_apart(text: str) -> None:
    with pytest.raises(NoJson):
        value_of(Message("assistant", text))


def test_classes_count_whatever_their_spelling() -> None:
    labels = ("yes", "no", "maybe")
    items = [item("yes", "Yes."), item("yes", "no"), item("no", "no"), item("no", "I think so"), item("no", None)]
    assert figure("accuracy", items) == 40
    # yes: 1 right, 1 missed; no: 1 right, 1 too many, 2 missed; maybe: never there, so it does not count.
    assert figure("f1", items, labels) == pytest.approx(100 * (2 / 3 + 2 / 5) / 2)
    assert figure("f1", items, labels, number=1) == pytest.approx(100 * 4 / (4 + 1 + 3))
    assert label_of(" Maybe  so. ") == "maybe so"


def test_perplexity_is_of_tokens_and_not_of_items() -> None:
    items = [item("a", "b", nats=2.0, nats_tokens=1), item("a", "b", nats=1.0, nats_tokens=9), item("a", "b")]
    assert figure("perplexity", items) == pytest.approx(math.exp(0.3))
    assert math.isnan(figure("perplexity", items[2:]))


def test_grades_are_a_mean_over_those_that_were_given() -> None:
    assert figure("judge", [item("a", "b", grade=5), item("a", "b", grade=2), item("a", "b")]) == 3.5


def example(answer: str, prompt: str = "") -> Example:
    asked = (Message("user", prompt or answer),)
    return Example(id=identity(asked), prompt=asked, answer=Message("assistant", answer))


@pytest.mark.parametrize(("answers", "metrics"), [
    (['{"room": "hall"}', '{"room": "attic"}'], ("json_match", "json_valid", "perplexity")),
    (["yes", "No", "no", "Yes.", "yes", "no", "no", "no", "yes", "no"], ("accuracy", "f1", "perplexity")),
    (["Paris", "Rome", "Berlin"], ("exact_match", "rouge", "perplexity")),
    (["a long answer that says a lot of things in many words"] * 3 + ["another one of such answers in many words"],
     ("rouge", "bleu", "perplexity")),
])
def test_metrics_fit_the_answers(answers: list[str], metrics: tuple[str, ...]) -> None:
    chosen = choose(Evaluate(), [example(answer, str(at)) for at, answer in enumerate(answers)], ())
    assert chosen.metrics == metrics
    assert chosen.primary == metrics[0]
    assert chosen.labels == (("no", "yes") if metrics[0] == "accuracy" else ())


def test_a_judge_that_is_named_judges() -> None:
    judge = Judge(model="m", endpoint="http://127.0.0.1:1/v1")
    assert choose(Evaluate(judge=judge), [example("Paris")], ()).metrics[-1] == "judge"


@pytest.mark.parametrize(("settings", "message"), [
    (Evaluate(metrics=("judge",)), "who judges"), (Evaluate(metrics=("f1",)), "evaluate.labels"),
    (Evaluate(primary="json_match"), "json_match, which does not fit"),
])
def test_a_metric_that_cannot_be_is_refused_early(settings: Evaluate, message: str) -> None:
    from edged.errors import InvalidRequest

    with pytest.raises(InvalidRequest, match=message):
        choose(settings, [example("Paris"), example("Rome")], ())


def answered(right: list[bool]) -> list[Item]:
    return [Item(id=str(at), expected=Message("assistant", "yes"),
                 said=Message("assistant", "yes" if one else "no")) for at, one in enumerate(right)]


EXACT = choose(Evaluate(metrics=("exact_match",)), [example("yes"), example("no")], ())


def test_an_interval_holds_its_figure_and_narrows_with_items() -> None:
    few = figures_of(answered([True, False] * 10), EXACT, 2000, 1)["exact_match"]
    many = figures_of(answered([True, False] * 400), EXACT, 2000, 1)["exact_match"]
    assert few.low is not None
    assert few.high is not None
    assert many.low is not None
    assert many.high is not None
    assert few.value == many.value == 50
    assert few.low < many.low < 50 < many.high < few.high
    assert many.high - many.low == pytest.approx(2 * 196 * math.sqrt(0.25 / 800), rel=0.1)


def test_pairs_are_compared_item_by_item() -> None:
    """Both answer half of the items right; in pairs hardly anything changed, which two independent figures never
    show."""
    before = answered([True, False] * 100)
    after = answered([True, False] * 98 + [False, True] * 2)
    change = differences([before, after], EXACT, resamples=4000, seed=1, tolerance=2.0)[0, 1]["exact_match"]
    assert (change.points, change.better, change.worse) == (0, 2, 2)
    assert change.low is not None
    assert change.low == pytest.approx(-2.0, abs=0.51)
    alone = figures_of(before, EXACT, 4000, 1)["exact_match"]
    assert alone.low is not None
    assert 50 - alone.low > 3 * abs(change.low)


def test_the_same_seed_tells_the_same() -> None:
    subjects = [answered([True, False, True] * 20), answered([True, True, False] * 20)]
    first, again = (differences(subjects, EXACT, resamples=500, seed=7, tolerance=2.0) for _ in range(2))
    assert first == again
    assert first != differences(subjects, EXACT, resamples=500, seed=8, tolerance=2.0)


@pytest.mark.parametrize(("right", "low", "high"), [
    (True, 100 - unseen_points(40), 100), (False, 0, unseen_points(40))])
def test_all_right_among_few_items_is_not_certain(right: bool, low: float, high: float) -> None:
    told = figures_of(answered([right] * 40), EXACT, 100, 1)["exact_match"]
    assert (told.low, told.high) == (low, high)
    assert 8 < high - low < 9


def test_no_change_among_few_items_is_no_proof() -> None:
    few, many = (answered([True] * count) for count in (50, 500))
    [unsure] = differences([few, few], EXACT, resamples=500, seed=1, tolerance=2.0).values()
    [kept] = differences([many, many], EXACT, resamples=500, seed=1, tolerance=2.0).values()
    assert unsure["exact_match"].verdict == "unsure"
    assert kept["exact_match"].verdict == "kept"
    assert kept["exact_match"].low == -unseen_points(500) == pytest.approx(-0.735, abs=0.01)


def test_wrong_answers_that_change_their_class_are_seen_in_an_f1() -> None:
    """No item's own score moves: wrong before, wrong after."""
    labels = ("red", "green", "blue")
    chosen = choose(Evaluate(metrics=("f1",), labels=labels), [example(each) for each in labels], ())

    def said(wrong: str) -> list[Item]:
        rows = [("red", "red")] * 160 + [("green", "green")] * 160 + [("blue", "blue")] * 10 + [("red", wrong)] * 40
        return [Item(id=str(at), expected=Message("assistant", right), said=Message("assistant", answer))
                for at, (right, answer) in enumerate(rows)]

    [change] = differences([said("green"), said("blue")], chosen, resamples=1000, seed=1, tolerance=2.0).values()
    assert (change["f1"].better, change["f1"].worse) == (0, 0)
    assert change["f1"].points is not None
    assert change["f1"].points < -5
    assert change["f1"].low is not None
    assert change["f1"].low < change["f1"].points
    assert change["f1"].verdict == "lost"


@pytest.mark.parametrize(("points", "low", "verdict"), [
    (5.0, 1.0, "gained"), (5.0, -1.0, "kept"), (0.0, -2.0, "kept"), (-1.0, -3.0, "unsure"), (-3.0, -5.0, "lost")])
def test_what_is_lost_is_said_by_the_interval(points: float, low: float, verdict: str) -> None:
    assert verdict_of(points, low, 2.0) == verdict


def test_less_perplexity_is_better() -> None:
    chosen = choose(Evaluate(metrics=("perplexity",)), [example("a")], ())
    before = [item("a", "b", nats=2.0, nats_tokens=1)] * 20
    after = [item("a", "b", nats=1.0, nats_tokens=1)] * 20
    change = differences([before, after], chosen, resamples=100, seed=1, tolerance=2.0)[0, 1]["perplexity"]
    assert change.points == pytest.approx(100 * (1 - math.exp(-1)))
    assert (change.better, change.worse, change.verdict) == (20, 0, "gained")


@pytest.mark.parametrize("metric", ["judge", "perplexity"])
def test_items_that_one_of_two_lacks_are_no_difference_between_them(metric: Metric) -> None:
    """Both are the same of all that both have; what only the first has is far off. A third one has them all."""
    settings = Evaluate(metrics=(metric,), judge=Judge(model="m", endpoint="http://127.0.0.1:1/v1"))
    chosen = choose(settings, [example("a")], ())
    middle = item("a", "b", grade=3, nats=2.0, nats_tokens=1)
    far = item("a", "b", grade=1, nats=9.0, nats_tokens=1)
    first, second, third = [middle, far] * 20, [middle, item("a", "b")] * 20, [middle, middle] * 20
    found = differences([first, second, third], chosen, resamples=200, seed=1, tolerance=2.0)
    change = found[0, 1][metric]
    assert (change.points, change.low, change.high, change.better, change.worse) == (0, 0, 0, 0, 0)
    rose = found[0, 2][metric]
    assert rose.points is not None
    assert rose.points > 20
    assert (rose.better, rose.worse) == (20, 0)
    [none] = differences([[item("a", "b")], [middle]], chosen, resamples=20, seed=1, tolerance=2.0).values()
    assert none[metric].points is None
    assert none[metric].verdict is None


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 2**31))
def test_intervals_hold_what_a_share_can_be(right: list[bool], seed: int) -> None:
    told = figures_of(answered(right), EXACT, 50, seed)["exact_match"]
    assert told.low is not None
    assert told.high is not None
    assert 0 <= told.low <= told.high <= 100


def test_every_metric_of_one_item_is_that_of_all() -> None:
    one = item("the cat sat on the mat here", "the cat sat on the mat there", nats=1.0, nats_tokens=4, grade=4)
    for kind in kinds(("exact_match", "accuracy", "perplexity", "judge")):
        rows = kind.statistics([one], ())
        assert np.allclose(kind.figure(rows), kind.figure(rows.sum(axis=0)))
