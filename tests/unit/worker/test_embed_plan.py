from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.engines.base import EmbedderCapabilities, Passage
from edged.types import EmbedRequest
from edged.worker.embed_plan import MOST_PADDING, SHORT_TOKENS, Plan, Waiting
from edged.worker.embed_prepare import PreparedEmbed

pytestmark = pytest.mark.unit


def caps(*, padded: bool = True, tokens: int = 512, inputs: int = 8) -> EmbedderCapabilities:
    return EmbedderCapabilities(dimensions=4, context=256, vocab_size=10, batch_tokens=tokens, batch_inputs=inputs,
                                padded=padded)


def waiting(id: str, *lengths: int, client: str = "") -> Waiting:
    request = EmbedRequest(id=id, inputs=["x"] * len(lengths), client=client)
    return Waiting(PreparedEmbed(request, [Passage([1] * length) for length in lengths], 4), 0.0)


def runs(plan: Plan, budget: int = 512) -> list[list[tuple[str, int]]]:
    found = []
    while items := plan.next_run(budget):
        found.append([(item.waiting.id, item.index) for item in items])
    return found


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.integers(1, 256), min_size=1, max_size=12)), max_size=6),
    st.booleans(), st.integers(16, 512),
)
def test_every_input_is_computed_once_in_runs_that_hold_it(
        requests: list[tuple[str, list[int]]], padded: bool, budget: int) -> None:
    holds = caps(padded=padded)
    plan = Plan(holds)
    for number, (client, lengths) in enumerate(requests):
        plan.add(waiting(str(number), *lengths, client=client))
    seen = []
    while items := plan.next_run(budget):
        lengths = [len(item.passage.tokens) for item in items]
        cost = max(lengths) * len(lengths) if padded else sum(lengths)
        assert len(items) == 1 or (cost <= budget and len(items) <= holds.batch_inputs)
        if padded:
            assert max(lengths) <= max(SHORT_TOKENS, MOST_PADDING * min(lengths))
        seen += [(item.waiting.id, item.index) for item in items]
    expected = [(str(number), index) for number, (_, lengths) in enumerate(requests) for index in range(len(lengths))]
    assert sorted(seen) == sorted(expected)
    assert not plan.runnable


def test_inputs_of_several_requests_are_computed_together() -> None:
    plan = Plan(caps())
    plan.add(waiting("a", 10, client="1"))
    plan.add(waiting("b", 12, client="2"))
    plan.add(waiting("c", 9, client="2"))
    assert runs(plan) == [[("a", 0), ("b", 0), ("c", 0)]]


def test_the_longest_come_first_and_alike_together() -> None:
    plan = Plan(caps())
    plan.add(waiting("a", 20, 200, 21, 190))
    assert runs(plan) == [[("a", 1), ("a", 3)], [("a", 2), ("a", 0)]]


def test_a_client_with_one_text_does_not_wait_behind_anothers_thousand() -> None:
    plan = Plan(caps())
    plan.add(waiting("many", *[200] * 1000, client="1"))
    plan.next_run(200)
    plan.add(waiting("one", 30, client="2"))
    plan.next_run(200)
    assert [item.waiting.id for item in plan.next_run(200)] == ["one"]


def test_a_paused_request_waits_and_others_do_not() -> None:
    plan = Plan(caps())
    plan.add(waiting("a", 10))
    plan.add(waiting("b", 10))
    plan.pause("a", True)
    assert runs(plan) == [[("b", 0)]]
    assert not plan.runnable
    plan.pause("a", False)
    assert runs(plan) == [[("a", 0)]]


def test_a_cancelled_request_is_gone() -> None:
    plan = Plan(caps())
    plan.add(waiting("a", *[100] * 9))
    plan.next_run(100)
    plan.remove("a")
    assert runs(plan) == []
