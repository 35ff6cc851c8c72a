"""Requests that begin alike: what one computes, the others wait for and go on from."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edged.engines.fake import Knobs
from edged.ipc.messages import Cancel, Pause, Resume
from edged.types import TokenPrompt
from edged.worker.worth import Worth
from tests.unit.worker.played import Timed, alone, play, request, words
from tests.unit.worker.test_scheduler import Bench, answered

pytestmark = pytest.mark.unit

SYSTEM = words(1000, seed=1)
mixed = pytest.mark.parametrize("mixed_step", [True, False])


@pytest.fixture(autouse=True)
def _bringing_back_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake engine computes faster than it moves KV, or not, as the machine pleases."""
    monkeypatch.setattr("edged.worker.loop.Worth", lambda rate: Worth(lambda: 0.0))


def question(number: int, length: int = 20) -> list[int]:
    return [260 + number, *words(length - 1, seed=50 + number)]


@mixed
@pytest.mark.parametrize("trims", [True, False])
def test_eight_clients_with_one_system_prompt_compute_it_once(mixed_step: bool, trims: bool) -> None:
    bench = Bench(context=2000, rows=8, mixed_step=mixed_step, piece_tokens=150, trims=trims, ram_bytes=1 << 20)
    clients = [bench.submit(f"c{number}", [*SYSTEM, *question(number)], client=f"c{number}")[0] for number in range(8)]
    bench.until(lambda: all(map(answered, clients)))
    assert bench.prompt_computed <= 1000 + 8 * 20
    assert [one.cached_tokens for one in clients] == [0] + [1000] * 7


@mixed
def test_once_the_beginning_is_there_all_go_on_together(mixed_step: bool) -> None:
    """Also where the one that computed it has a long rest: it is no later than the others' turn."""
    bench = Bench(context=2000, rows=8, mixed_step=mixed_step, piece_tokens=150)
    leader = bench.submit("leader", [*SYSTEM, *words(600, seed=9)])[0]
    others = [bench.submit(f"c{number}", [*SYSTEM, *question(number)])[0] for number in range(4)]
    bench.until(lambda: leader.length == 1000)
    assert all(one.row is None for one in others)
    for _ in range(1 if mixed_step else 7):
        bench.tick()
    assert all(map(answered, others))
    assert not answered(leader)


@mixed
def test_long_beginnings_are_copied_one_a_tick_where_prompts_go_one_by_one(mixed_step: bool) -> None:
    """So that the first of those who waited need not wait for the copies of all."""
    bench = Bench(context=2000, rows=8, mixed_step=mixed_step, piece_tokens=150)
    leader = bench.submit("leader", [*SYSTEM, *question(9)])[0]
    others = [bench.submit(f"c{number}", [*SYSTEM, *question(number)])[0] for number in range(4)]
    bench.until(lambda: leader.length >= 1000)
    bench.tick()
    assert sum(one.row is not None for one in others) == (4 if mixed_step else 1)


@mixed
def test_others_pass_those_who_wait(mixed_step: bool) -> None:
    bench = Bench(context=2000, rows=3, mixed_step=mixed_step, piece_tokens=50)
    bench.submit("leader", [*SYSTEM, *question(1)])
    [waits] = bench.submit("waits", [*SYSTEM, *question(2)])
    [short] = bench.submit("short", words(20, seed=7))
    bench.until(lambda: answered(short) > 0, ticks=3)
    assert waits.row is None


@pytest.mark.parametrize("what", ["cancel", "pause", "fail"])
def test_when_the_leader_goes_the_next_one_leads(what: str) -> None:
    bench = Bench(context=2000, rows=4, piece_tokens=100)
    [leader] = bench.submit("leader", [*SYSTEM, *question(1)])
    [second] = bench.submit("second", [*SYSTEM, *question(2)])
    [third] = bench.submit("third", [*SYSTEM, *question(3)])
    bench.until(lambda: leader.length == 300)
    if what == "cancel":
        bench.scheduler.cancel("leader")
    elif what == "pause":
        bench.scheduler.pause("leader", True)
    else:
        bench.scheduler.fail(leader)
    bench.tick()
    assert second.row is not None
    assert third.row is None
    assert second.cached_tokens == (0 if what == "fail" else 300)
    bench.until(lambda: bool(answered(second) and answered(third)))
    assert third.cached_tokens == 1000
    if what == "pause":
        bench.scheduler.pause("leader", False)
        bench.until(lambda: answered(leader) > 0)


def test_a_beginning_that_is_hardly_longer_than_what_there_is_is_not_waited_for() -> None:
    bench = Bench(context=2000, rows=4, piece_tokens=100)
    [leader] = bench.submit("leader", [*SYSTEM, *question(1)])
    bench.until(lambda: leader.length >= 990)
    [second] = bench.submit("second", [*SYSTEM, *question(2)])
    bench.tick()
    assert second.row is not None


def test_nobody_waits_for_another_scope_or_adapter() -> None:
    bench = Bench(context=2000, rows=6, piece_tokens=100)
    prompt = [*SYSTEM, *question(1)]
    everyone = [bench.submit("a", prompt, scope="a")[0], bench.submit("b", prompt, scope="b")[0],
                bench.submit("pirate", prompt, scope="a", adapter="pirate")[0]]
    bench.tick()
    assert all(one.row is not None for one in everyone)
    bench.until(lambda: all(map(answered, everyone)))
    assert [one.cached_tokens for one in everyone] == [0, 0, 0]
    [again] = bench.submit("again", [*prompt, 261], scope="b")
    bench.tick()
    assert again.cached_tokens == len(prompt)


def test_a_wait_ends_though_leaders_come_and_go() -> None:
    """Each new one with a longer common beginning: the first in the queue waits for none that is not worth it, and
    leads when its turn is there."""
    bench = Bench(context=2000, rows=2, piece_tokens=50)
    bench.submit("first", SYSTEM[:400])
    [patient] = bench.submit("patient", [*SYSTEM, *question(1)])
    for number in range(40):
        bench.submit(f"c{number}", [*SYSTEM, *question(number)], client="crowd")
        bench.tick()
        for one in [one for one in bench.scheduler._running if one is not patient and number % 3 == 2]:
            bench.scheduler.cancel(one.request)
        if answered(patient):
            break
    assert answered(patient)


AGENTS, TURNS = 4, 10


@mixed
@pytest.mark.parametrize("rows", [2, 8])
@pytest.mark.parametrize("trims", [True, False])
def test_agents_with_growing_histories_compute_what_is_new(mixed_step: bool, rows: int, trims: bool) -> None:
    """In turn, on more rows than agents or on fewer. What is new: the first prompt, then each turn's words, and the
    last token of each answer, which was never computed."""
    bench = Bench(context=4000, rows=rows, mixed_step=mixed_step, piece_tokens=200, trims=trims, ram_bytes=1 << 20)
    histories = [[*SYSTEM[:300], *question(agent, 40)] for agent in range(AGENTS)]
    new = len(histories[0]) + (AGENTS - 1) * 40
    for turn in range(TURNS):
        for agent in range(AGENTS):
            [one] = bench.submit(f"{agent}.{turn}", list(histories[agent]))
            bench.until(lambda one=one: answered(one) >= 30)  # type: ignore[misc]
            bench.scheduler.finish(one)
            while bench.rows.tend():
                pass
            histories[agent] = [*one.tokens, *words(25, seed=turn)]
            new += 25 + 1 if turn < TURNS - 1 else 0
    if not trims:
        # Each agent's first prompt but two: one that parts from nothing known leaves no checkpoint where others part.
        new += 300
    assert bench.prompt_computed <= 1.05 * new


def test_what_an_idle_row_had_comes_back_from_memory_when_its_row_was_needed() -> None:
    prompt = words(80, seed=3)
    others = [request(words(60, seed=10 + number), max_tokens=2, id=f"o{number}") for number in range(3)]
    first, again = request(prompt, max_tokens=3, id="first"), request([*prompt, 261], max_tokens=3, id="again")
    played = play([(0, first), *((10 + 10 * at, one) for at, one in enumerate(others)), (90, again)],
                  Knobs(rows=1, end_chance=0), ram_bytes=1 << 20)
    usage = played["again"].usage
    assert usage is not None
    assert usage.cached_tokens == 80
    assert played.stats.prefix_restored_tokens == 80
    assert played.stats.prompt_computed_tokens == 80 + 3 * 60 + 1
    assert 0 < played.stats.kv_ram_bytes <= 1 << 20
    assert played["again"].text == play([again], Knobs(end_chance=0))["again"].text


def test_what_is_computed_for_prompts_is_counted_and_no_token_of_an_answer() -> None:
    played = play([request(words(50), max_tokens=9, n=3)], Knobs(end_chance=0))
    assert played.stats.prompt_computed_tokens == 50 + 2


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10**6), st.booleans(), st.booleans(), st.sampled_from([0, 1000, 1 << 20]))
def test_whoever_waits_for_whom_everyone_ends_with_its_own_text(
    seed: int, mixed_step: bool, trims: bool, ram_bytes: int,
) -> None:
    """Leaders are cancelled, paused for good (and read on at the very end), preempted; nobody is forgotten (the played
    loop fails when nothing moves while something waits), and every text is that of the request alone."""
    random = Random(seed)
    trunk = words(120, seed=1)
    orders: list[Timed] = []
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edged.worker.sequence.ALLOWANCE_TOKENS", random.choice([1, 8]))
        patch.setattr("edged.worker.scheduler.MIN_GAIN_TOKENS", random.choice([1, 8, 32]))
        for number in range(random.randint(2, 9)):
            prompt = [*trunk[: random.choice([10, 40, 60, 100, 120])], *words(random.randint(1, 12), seed=number)]
            one = request(prompt, id=f"r{number}", max_tokens=random.choice([1, 5, 20]), n=random.choice([1, 1, 3]),
                          client=random.choice("ab"), adapter=random.choice([None, None, "pirate"]))
            at = random.randint(0, 12)
            orders.append((at, one))
            if random.random() < 0.25:
                orders.append((at + random.randint(0, 12), Cancel(one.id)))
            else:
                kept.append(one)
                if random.random() < 0.25:
                    pause = at + random.randint(0, 12)
                    orders += [(pause, Pause(one.id)), (random.choice([pause, 10_000]), Resume(one.id))]
        knobs = Knobs(context=200, rows=random.randint(1, 5), kv_tokens=random.choice([200, 230, 800]),
                      mixed_step=mixed_step, trims=trims, step_tokens=random.choice([7, 30, 512]), end_chance=0)
        played = play(orders, knobs, ram_bytes=ram_bytes)
    for one in kept:
        assert isinstance(one.prompt, TokenPrompt)
        for index, choice in played[one.id].choices.items():
            want = alone(tuple(one.prompt.tokens), max_tokens=one.max_tokens, temperature=0.0, seed=1, index=index,
                         stop=(), echo=False, context=200, adapter=one.adapter, end_chance=0)
            assert choice.text == want.text
        assert len(played[one.id].choices) == one.n
    assert played.stats.running == played.stats.waiting == 0
    assert played.stats.kv_used_tokens == played.generator.kv_used_tokens
    assert played.stats.kv_ram_bytes <= ram_bytes
