"""Which models may be in memory: single decisions by example, and random events under which the promises hold."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.daemon.policy import (
    Decision,
    Evict,
    Live,
    Load,
    Phase,
    Shed,
    Skip,
    Trim,
    Wait,
    Want,
    expires_at,
    least_worth_first,
    plan,
    trim,
)

pytestmark = pytest.mark.unit


def ready(key: str, held: int, *, used: float = 0.0, busy: bool = False, pinned: bool = False,
          ticket: int | None = None) -> Live:
    return Live(key=key, held_bytes=held, phase=Phase.READY, used=used, busy=busy, pinned=pinned, ticket=ticket)


def want(key: str, ticket: int, need: int, least: int | None = None) -> Want:
    return Want(key=key, ticket=ticket, need_bytes=need, least_bytes=need if least is None else least)


def only(decisions: list[Decision]) -> Decision:
    (decision,) = decisions
    return decision


def test_what_fits_is_loaded_beside_the_others_with_all_that_is_free() -> None:
    assert only(plan([want("b", 1, 3)], [ready("a", 4)], 10)) == Load("b", 3, 6, everything=False)
    assert only(plan([want("b", 1, 3)], [], 10)) == Load("b", 3, 10, everything=True)


def test_least_recently_used_idle_model_goes() -> None:
    live = [ready("new", 4, used=9), ready("old", 4, used=5), ready("busy", 2, used=1, busy=True)]
    assert only(plan([want("b", 1, 3)], live, 10)) == Evict("b", ("old",))


def test_no_more_models_go_than_needed() -> None:
    live = [ready("small", 1, used=1), ready("large", 6, used=2)]
    assert only(plan([want("b", 1, 6)], live, 8)) == Evict("b", ("large",))


def test_busy_model_yields_instead_of_being_stopped() -> None:
    assert only(plan([want("b", 5, 8)], [ready("a", 8, busy=True)], 10)) == Wait("b", ("a",))


def test_idle_model_whose_requests_came_later_goes_and_one_whose_came_earlier_stays() -> None:
    assert only(plan([want("b", 5, 8)], [ready("a", 8, ticket=6)], 10)) == Evict("b", ("a",))
    assert only(plan([want("b", 5, 8)], [ready("a", 8, ticket=4)], 10)) == Wait("b")


def test_pinned_and_loading_models_are_never_victims() -> None:
    loading = Live(key="a", held_bytes=8, phase=Phase.LOADING)
    assert only(plan([want("b", 5, 8)], [loading], 10)) == Wait("b")
    assert only(plan([want("b", 5, 8)], [ready("a", 8, pinned=True)], 10)) == Shed("b", 8, 2)
    live = [ready("pinned", 4, used=1, pinned=True), ready("other", 4, used=2)]
    assert only(plan([want("b", 5, 6)], live, 10)) == Evict("b", ("other",))


def test_what_can_never_fit_is_shed_at_once_and_does_not_hold_up_others() -> None:
    assert plan([want("huge", 1, 11), want("b", 2, 3)], [], 10) == [
        Shed("huge", 11, 10), Load("b", 3, 10, everything=True)]


def test_model_measured_larger_than_what_there_is_gets_what_there_is() -> None:
    assert only(plan([want("b", 1, 50, least=5)], [], 10)) == Load("b", 10, 10, everything=True)
    assert only(plan([want("b", 1, 50, least=5)], [ready("a", 2)], 10)) == Evict("b", ("a",))


def test_memory_of_a_stopping_model_counts_until_it_is_gone() -> None:
    stopping = Live(key="a", held_bytes=8, phase=Phase.STOPPING)
    assert only(plan([want("b", 1, 8)], [stopping], 10)) == Wait("b")
    assert only(plan([want("a", 1, 8)], [stopping], 10)) == Wait("a")


def test_later_want_overtakes_only_where_it_delays_nobody() -> None:
    live = [ready("a", 8, busy=True)]
    assert plan([want("b", 1, 7), want("c", 2, 2)], live, 10) == [
        Wait("b", ("a",)), Load("c", 2, 2, everything=False)]
    assert plan([want("b", 1, 9), want("c", 2, 2)], live, 10) == [Wait("b", ("a",)), Wait("c")]


def test_two_wants_share_the_victims_without_counting_their_memory_twice() -> None:
    live = [ready("a", 6, used=1), ready("d", 4, used=2)]
    assert plan([want("b", 1, 6), want("c", 2, 4)], live, 10) == [Evict("b", ("a",)), Evict("c", ("d",))]


def test_models_that_took_more_than_expected_are_trimmed_but_not_the_last() -> None:
    live = [ready("a", 6, used=1), ready("b", 6, used=2), ready("c", 6, used=3, busy=True)]
    assert trim(live, 13) == Trim(("a",), ())
    assert trim(live, 1) == Trim(("a", "b"), ())
    assert trim([ready("a", 6)], 1) == Trim((), ())
    assert trim(live, 20) == Trim((), ())


def test_busy_models_that_grew_over_the_budget_finish_what_they_have_but_the_latest_and_the_pinned_go_on() -> None:
    live = [ready("pinned", 6, used=1, pinned=True), ready("a", 6, used=2, busy=True), ready("idle", 6, used=3),
            ready("b", 6, used=4, busy=True)]
    assert trim(live, 20) == Trim(("idle",), ())
    assert trim(live, 14) == Trim(("idle",), ("a",))
    assert trim(live, 1) == Trim(("idle",), ("a",))


def test_keep_alive() -> None:
    assert expires_at(idle_since=10.0, keep_alive_s=5.0, pinned=False) == 15.0
    assert expires_at(idle_since=10.0, keep_alive_s=0.0, pinned=False) == 10.0
    assert expires_at(idle_since=10.0, keep_alive_s=-1, pinned=False) is None
    assert expires_at(idle_since=10.0, keep_alive_s=5.0, pinned=True) is None
    assert expires_at(idle_since=None, keep_alive_s=5.0, pinned=False) is None


BUDGET = 10


@dataclass
class FakeModel:
    size: int
    pinned: bool = False
    phase: Phase | None = None
    waiting: list[int] = field(default_factory=list)
    running: list[int] = field(default_factory=list)
    used: float = 0.0


class World:
    """The router without processes: carries out each plan, and lets loads, stops and requests end when told."""

    def __init__(self, models: dict[str, FakeModel]) -> None:
        self.models = models
        self.time = 0.0
        self.tickets = 0
        self.served: list[int] = []
        self.shed: list[int] = []

    def arrive(self, key: str) -> None:
        self.tickets += 1
        self.models[key].waiting.append(self.tickets)
        self.settle()

    def finish_load(self, key: str) -> None:
        if self.models[key].phase is Phase.LOADING:
            self.models[key].phase = Phase.READY
            self.settle()

    def finish_stop(self, key: str) -> None:
        if self.models[key].phase is Phase.STOPPING:
            self.models[key].phase = None
            self.settle()

    def finish_request(self, key: str) -> None:
        if self.models[key].running:
            self.served.append(self.models[key].running.pop(0))
            self.models[key].used = self.time
            self.settle()

    def settle(self) -> None:
        self.time += 1
        live = [Live(key=key, held_bytes=model.size, phase=model.phase, busy=bool(model.running), pinned=model.pinned,
                     ticket=min(model.waiting, default=None), used=model.used)
                for key, model in self.models.items() if model.phase is not None]
        wants = [want(key, model.waiting[0], model.size) for key, model in self.models.items()
                 if model.waiting and model.phase in (None, Phase.STOPPING)]
        yielding: set[str] = set()
        for decision in plan(wants, live, BUDGET):
            model = self.models[decision.key]
            match decision:
                case Load():
                    assert model.phase is None
                    model.phase = Phase.LOADING
                case Evict(victims=victims):
                    for key in victims:
                        self.stop(key, model.waiting[0])
                case Wait(yielding=keys):
                    yielding.update(keys)
                case Shed():
                    pinned = sum(one.size for one in self.models.values()
                                 if one.pinned and one.phase in (Phase.LOADING, Phase.READY))
                    assert model.size > BUDGET - pinned
                    self.shed += model.waiting
                    model.waiting = []
        for key, model in self.models.items():
            if model.phase is Phase.READY and key not in yielding and model.waiting:
                model.running += model.waiting
                model.waiting = []
                model.used = self.time
        assert sum(model.size for model in self.models.values() if model.phase is not None) <= BUDGET

    def stop(self, key: str, for_ticket: int) -> None:
        victim = self.models[key]
        assert victim.phase is Phase.READY
        assert not victim.running
        assert not victim.pinned
        assert not victim.waiting or victim.waiting[0] > for_ticket
        victim.phase = Phase.STOPPING


KEYS = "abcde"
models_of = st.fixed_dictionaries({
    key: st.builds(FakeModel, size=st.integers(1, 11), pinned=st.sampled_from([False, False, True])) for key in KEYS})
events = st.lists(st.tuples(
    st.sampled_from(["arrive", "arrive", "finish_load", "finish_stop", "finish_request"]), st.sampled_from(KEYS)),
    min_size=10, max_size=60)


@settings(deadline=None)
@given(models_of, events)
def test_budget_holds_and_every_request_is_served_or_shed_whatever_happens(
    models: dict[str, FakeModel], happened: list[tuple[str, str]],
) -> None:
    world = World(models)
    for event, key in happened:
        getattr(world, event)(key)
    for _ in range(4 * world.tickets + 8):
        for event in ("finish_request", "finish_load", "finish_stop"):
            for key in KEYS:
                getattr(world, event)(key)
    assert sorted(world.served + world.shed) == list(range(1, world.tickets + 1))
    for ticket in world.shed:
        assert ticket not in world.served


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=6), st.integers(1, 4))
def test_model_under_constant_load_does_not_starve_another(arrivals: list[str], at_once: int) -> None:
    world = World({key: FakeModel(size=8) for key in "abc"} | {"busy": FakeModel(size=8)})
    for _ in range(at_once):
        world.arrive("busy")
    world.finish_load("busy")
    for key in arrivals:
        world.arrive(key)
    wanted = set(range(at_once + 1, at_once + 1 + len(arrivals)))
    for _ in range(20 * (len(arrivals) + 1)):
        # A client of the busy model sends its next request before the one before it has ended.
        world.arrive("busy")
        for event in ("finish_request", "finish_load", "finish_stop"):
            for key in world.models:
                getattr(world, event)(key)
    assert wanted <= set(world.served)


def test_of_models_that_are_worth_about_the_same_the_least_recently_used_goes() -> None:
    """What their loads took differs by chance."""
    now = Live(key="now", held_bytes=100, phase=Phase.READY, used=9.0, rate=1.0, load_s=0.4)
    before = Live(key="before", held_bytes=100, phase=Phase.READY, used=1.0, rate=1.0, load_s=0.7)
    often = Live(key="often", held_bytes=100, phase=Phase.READY, used=0.0, rate=5.0, load_s=0.7)
    assert [model.key for model in least_worth_first([now, often, before])] == ["before", "now", "often"]


def unasked(key: str, ticket: int, need: int) -> Want:
    return Want(key=key, ticket=ticket, need_bytes=need, least_bytes=need, unasked=True)


def test_what_nobody_asked_for_loads_where_there_is_room_and_pushes_nobody_out() -> None:
    assert only(plan([unasked("b", 1, 6)], [ready("a", 4)], 10)) == Load("b", 6, 6, everything=False)
    assert only(plan([unasked("b", 1, 7)], [ready("a", 4)], 10)) == Skip("b")
    assert only(plan([unasked("b", 1, 11)], [], 10)) == Skip("b")


def test_what_nobody_asked_for_does_not_wait_for_memory_that_comes_free() -> None:
    leaving = Live(key="a", held_bytes=8, phase=Phase.STOPPING)
    assert only(plan([unasked("b", 1, 6)], [leaving], 10)) == Skip("b")
    assert plan([want("c", 1, 6), unasked("b", 2, 3)], [leaving], 10) == [Wait("c"), Skip("b")]


def test_what_nobody_asked_for_has_its_turn_after_whoever_came_meanwhile() -> None:
    assert plan([unasked("back", 1, 6), want("wanted", 2, 6)], [], 10) == [
        Load("wanted", 6, 10, everything=True), Skip("back")]


def test_what_nobody_asked_for_gives_way_while_it_loads_and_before_all_others() -> None:
    loading = Live(key="back", held_bytes=4, phase=Phase.LOADING, unasked=True, rate=1.0)
    live = [loading, ready("idle", 4, used=1)]
    assert only(plan([want("b", 9, 5)], live, 10)) == Evict("b", ("back",))
    asked = Live(key="back", held_bytes=4, phase=Phase.LOADING, ticket=3)
    assert only(plan([want("b", 9, 5)], [asked, ready("idle", 4, used=1)], 10)) == Evict("b", ("idle",))
