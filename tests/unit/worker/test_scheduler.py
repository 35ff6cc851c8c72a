"""The scheduler alone: rows of the fake engine, a step that is carried out by hand, no text and no clock."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import pytest

from edged.engines.base import RowWork
from edged.engines.fake import FakeGenerator, Knobs
from edged.worker.rows import Rows
from edged.worker.scheduler import Scheduler, Step
from edged.worker.sequence import Sequence
from tests.unit.worker.played import ADAPTERS, LARGE_STASH_BYTES, words

pytestmark = pytest.mark.unit


class Bench:
    """The loop's part: admit, plan, compute; every sequence that has all its KV gets one more token."""

    def __init__(self, *, stash_limit_bytes: int = LARGE_STASH_BYTES, piece_tokens: int = 16,
                 ram_bytes: int = 0, **knobs: object) -> None:
        said: dict[str, object] = {"context": 1000, "rows": 4} | knobs
        self.engine = FakeGenerator(Knobs(**said), ADAPTERS)  # type: ignore[arg-type]
        self.rows = Rows(self.engine, ram_bytes=ram_bytes)
        self.scheduler = Scheduler(self.engine.caps, self.rows, stash_limit_bytes=stash_limit_bytes)
        self.piece_tokens = piece_tokens
        self.admitted: list[str] = []
        self.steps: list[dict[str, int]] = []
        self.computed = self.prompt_computed = 0

    def submit(
        self, request: str, prompt: int | list[int], *, client: str = "", n: int = 1, longest: int = 900,
        prompt_logits: bool = False, adapter: str | None = None, scope: str = "",
    ) -> list[Sequence]:
        tokens = words(prompt, seed=zlib.crc32(request.encode()) % 97) if isinstance(prompt, int) else prompt
        choices = [Sequence(request, index, client, list(tokens), longest, adapter=adapter, scope=scope)
                   for index in range(n)]
        choices[0].siblings = choices[1:]
        choices[0].prompt_logits = prompt_logits
        self.scheduler.submit(choices[0])
        return choices

    def tick(self) -> list[dict[str, int]]:
        """Tokens of each request in each step."""
        self.admitted += [sequence.request for sequence in self.scheduler.admit()]
        done = []
        for step in self.scheduler.plan(self.piece_tokens):
            self._run(step)
            done.append({piece.sequence.request: piece.count for piece in step})
        self.steps += done
        return done

    def _run(self, step: Step) -> None:
        work = []
        for piece in step:
            one = piece.sequence
            assert one.row is not None
            work.append(RowWork(one.row, one.tokens[one.length:one.length + piece.count], piece.logits,
                                one.adapter))
        self.engine.step(work)
        self.computed += sum(piece.count for piece in step)
        self.prompt_computed += sum(
            min(piece.count, max(0, piece.sequence.prompt_length - piece.sequence.length)) for piece in step)
        self.scheduler.advance(step)
        for piece in step:
            if not piece.sequence.pending:
                assert piece.logits
                piece.sequence.tokens.append(260 + len(piece.sequence.tokens) % 40)

    def until(self, true: Callable[[], bool], ticks: int = 200) -> None:
        for _ in range(ticks):
            if true():
                return
            self.tick()
        raise AssertionError("it never came")


def answered(sequence: Sequence) -> int:
    return len(sequence.tokens) - sequence.prompt_length


mixed = pytest.mark.parametrize("mixed_step", [True, False])


@mixed
def test_a_long_prompt_stalls_no_decoding_row_and_comes_in_pieces(mixed_step: bool) -> None:
    bench = Bench(mixed_step=mixed_step, piece_tokens=16)
    [a], [b] = bench.submit("a", 10), bench.submit("b", 10)
    bench.until(lambda: answered(a) > 0 and answered(b) > 0)
    [long] = bench.submit("long", 300)
    pieces = []
    while not answered(long):
        before = answered(a), answered(b)
        steps = bench.tick()
        assert (answered(a), answered(b)) == (before[0] + 1, before[1] + 1)
        pieces += [step["long"] for step in steps if "long" in step]
    assert pieces == [16] * (300 // 16) + [300 % 16]


@mixed
def test_one_step_never_holds_more_prefill_than_a_piece(mixed_step: bool) -> None:
    bench = Bench(mixed_step=mixed_step, piece_tokens=20, rows=8)
    running = [bench.submit(f"r{number}", 7 + 9 * number)[0] for number in range(8)]
    bench.until(lambda: all(map(answered, running)))
    assert all(sum(count for count in step.values() if count > 1) <= 20 for step in bench.steps)
    assert any(len(step) > 1 for step in bench.steps)


@mixed
def test_a_long_prompt_is_not_starved_by_short_ones(mixed_step: bool) -> None:
    bench = Bench(mixed_step=mixed_step, piece_tokens=16, rows=3, kv_tokens=10_000)
    [long] = bench.submit("long", 400, client="long")
    for number in range(60):
        [short] = bench.submit(f"short{number}", 16, client="short")
        bench.tick()
        if answered(short):
            bench.scheduler.finish(short)
        if answered(long):
            break
    assert answered(long)
    assert number <= 2 * 400 / 16 + 4


def test_a_short_prompt_passes_a_long_one() -> None:
    bench = Bench(piece_tokens=16)
    bench.submit("long", 900)
    bench.tick()
    [short] = bench.submit("short", 12)
    for _ in range(2):
        bench.tick()
    assert answered(short)


def test_first_come_first_served_within_a_client() -> None:
    bench = Bench(rows=1)
    waiting = [bench.submit(f"r{number}", 10)[0] for number in range(5)]
    for one in waiting:
        bench.until(lambda one=one: answered(one) > 0)  # type: ignore[misc]
        bench.scheduler.finish(one)
    assert bench.admitted == ["r0", "r1", "r2", "r3", "r4"]


@pytest.mark.parametrize("rows", [1, 2])
def test_a_client_with_twenty_requests_delays_anothers_one_by_no_more_than_a_turn(rows: int) -> None:
    bench = Bench(rows=rows)
    crowd = [bench.submit(f"crowd{number}", 10, client="crowd")[0] for number in range(20)]
    bench.tick()
    bench.submit("single", 10, client="single")
    bench.scheduler.finish(crowd[0])
    bench.tick()
    if rows == 1 and "single" not in bench.admitted:
        bench.scheduler.finish(crowd[1])
        bench.tick()
    assert "single" in bench.admitted


def test_clients_take_turns_and_none_is_passed_for_ever_by_new_ones() -> None:
    bench = Bench(rows=1)
    bench.submit("patient0", 10, client="patient")
    bench.submit("patient1", 10, client="patient")
    for number in range(6):
        [new] = bench.submit(f"new{number}", 10, client=f"new{number}")
        bench.tick()
        running = [one for one in [new, *bench.scheduler._running] if one.row is not None]
        bench.scheduler.finish(running[0])
    assert bench.admitted[:4] == ["patient0", "new0", "patient1", "new1"]


def test_choices_share_one_prefill_also_when_there_are_more_than_rows() -> None:
    bench = Bench(rows=3, piece_tokens=64)
    choices = bench.submit("r", 100, n=7)
    left = list(choices)
    bench.until(lambda: answered(choices[0]) == 1)
    while left:
        bench.tick()
        for one in [one for one in left if answered(one) >= 3]:
            bench.scheduler.finish(one)
            left.remove(one)
    # Each choice but the first computes the prompt's last token anew, for its logits, and all of them two of their own.
    assert bench.computed <= 100 + 6 + 7 * 3
    assert bench.rows.busy == 0


def test_a_choice_sees_the_prefix_of_the_first() -> None:
    bench = Bench(rows=3, piece_tokens=64)
    first, second = bench.submit("r", 50, n=2)
    bench.until(lambda: answered(second) > 0)
    assert (first.cached_tokens, second.cached_tokens) == (0, 49)


def test_the_youngest_gives_way_when_the_pool_is_full_and_returns_as_it_was() -> None:
    bench = Bench(rows=3, kv_tokens=400, context=400)
    [old], [young] = bench.submit("old", 100), bench.submit("young", 100)
    bench.until(lambda: bench.scheduler.preemptions == 1)
    assert old.row is not None
    assert young.state is not None
    had = answered(young)
    assert len(young.tokens) == young.state.tokens + 1
    bench.until(lambda: answered(old) > had + 20)
    computed = bench.computed
    bench.scheduler.finish(old)
    bench.tick()
    assert bench.computed == computed + 1  # nothing of it again
    assert answered(young) == had + 1


def test_over_the_stash_limit_it_is_computed_again() -> None:
    bench = Bench(rows=3, kv_tokens=400, context=400, stash_limit_bytes=0)
    [old], [young] = bench.submit("old", 100), bench.submit("young", 100)
    bench.until(lambda: bench.scheduler.preemptions == 1)
    assert young.state is None
    had = answered(young)
    bench.scheduler.finish(old)
    bench.until(lambda: answered(young) > had)
    assert young.length == len(young.tokens) - 1


def test_the_limit_is_on_what_is_held_and_not_on_what_passed() -> None:
    bench = Bench(rows=3, kv_tokens=400, context=400, stash_limit_bytes=4 * 250)
    [first], [second] = bench.submit("first", 100), bench.submit("second", 100)
    bench.until(lambda: bench.scheduler.preemptions == 1)
    assert second.state is not None
    bench.scheduler.finish(first)
    [third] = bench.submit("third", 50)
    bench.until(lambda: bench.scheduler.preemptions == 2)
    assert third.state is not None
    assert second.row is not None


def test_new_ones_wait_for_those_who_lost_their_row() -> None:
    bench = Bench(rows=3, kv_tokens=400, context=400)
    [old], [young] = bench.submit("old", 100), bench.submit("young", 100)
    bench.until(lambda: bench.scheduler.preemptions == 1)
    bench.submit("new", 10)
    for _ in range(5):
        bench.tick()
    assert bench.admitted == ["old", "young"]
    bench.scheduler.finish(old)
    bench.tick()
    assert young.row is not None
    assert bench.admitted == ["old", "young", "new"]


def test_idle_prefixes_go_before_anybody_is_preempted() -> None:
    bench = Bench(rows=4, kv_tokens=400, context=400)
    for number in range(2):
        [ended] = bench.submit(f"ended{number}", 100)
        bench.until(lambda ended=ended: answered(ended) > 0)  # type: ignore[misc]
        bench.scheduler.finish(ended)
    [one] = bench.submit("one", 180)
    bench.until(lambda: answered(one) > 150)
    assert bench.scheduler.preemptions == 0


@mixed
@pytest.mark.parametrize("stash_limit_bytes", [0, LARGE_STASH_BYTES])
def test_a_paused_one_holds_nobody_up_and_goes_on_when_it_may(mixed_step: bool, stash_limit_bytes: int) -> None:
    bench = Bench(rows=1, mixed_step=mixed_step, stash_limit_bytes=stash_limit_bytes)
    [slow] = bench.submit("slow", 20)
    bench.until(lambda: answered(slow) == 3)
    bench.scheduler.pause("slow", True)
    assert not bench.scheduler.runnable
    [other] = bench.submit("other", 20)
    bench.until(lambda: answered(other) == 3)
    assert answered(slow) == 3
    assert slow.row is None
    bench.scheduler.pause("slow", False)
    bench.scheduler.finish(other)
    bench.until(lambda: answered(slow) == 6)


def test_a_paused_one_keeps_its_row_while_nobody_needs_it() -> None:
    bench = Bench(rows=2)
    [slow], [other] = bench.submit("slow", 20), bench.submit("other", 20)
    bench.until(lambda: answered(slow) == 3)
    bench.scheduler.pause("slow", True)
    bench.until(lambda: answered(other) == 10)
    assert slow.row is not None
    assert answered(slow) == 3
    assert bench.scheduler.preemptions == 0


def test_who_is_paused_while_waiting_takes_no_row_from_others() -> None:
    bench = Bench(rows=1)
    [first] = bench.submit("first", 10)
    bench.tick()
    bench.submit("paused", 10)
    bench.scheduler.pause("paused", True)
    [third] = bench.submit("third", 10)
    bench.scheduler.finish(first)
    bench.tick()
    assert bench.admitted == ["first", "third"]
    bench.scheduler.finish(third)
    bench.scheduler.pause("paused", False)
    bench.tick()
    assert bench.admitted[-1] == "paused"


def test_a_cancel_in_prefill_frees_the_row_at_once() -> None:
    bench = Bench(rows=1, piece_tokens=16)
    bench.submit("long", 900)
    bench.tick()
    bench.scheduler.cancel("long")
    [other] = bench.submit("other", 10)
    bench.tick()
    assert answered(other) == 1


def test_a_cancelled_one_is_forgotten_in_every_phase_with_its_choices() -> None:
    bench = Bench(rows=2, kv_tokens=400, context=400)
    [old], young, _ = bench.submit("old", 100), bench.submit("young", 100, n=3), bench.submit("waiting", 100, n=2)
    bench.until(lambda: bench.scheduler.preemptions == 1)
    assert any(one.state is not None for one in young)
    for request in ("young", "waiting", "never heard of"):
        bench.scheduler.cancel(request)
    assert bench.scheduler.waiting == 0
    assert bench.scheduler.running == bench.rows.busy == 1
    had = answered(old)
    for _ in range(10):
        assert all(step.keys() == {"old"} for step in bench.tick())
    assert answered(old) == had + 10


def test_logits_of_every_position_are_asked_for_where_they_are_wanted_and_nowhere_else() -> None:
    bench = Bench(rows=2, piece_tokens=16)
    bench.submit("r", 40, prompt_logits=True)
    bench.scheduler.admit()
    wanted = []
    for _ in range(4):
        [[piece]] = bench.scheduler.plan(16)
        wanted.append((piece.count, piece.logits))
        bench._run([piece])
    assert wanted == [(16, 16), (16, 16), (8, 8), (1, 1)]
    other = Bench(rows=2, piece_tokens=16)
    other.submit("r", 40)
    other.scheduler.admit()
    logits = []
    for _ in range(4):
        [[piece]] = other.scheduler.plan(16)
        logits.append(piece.logits)
        other._run([piece])
    assert logits == [0, 0, 1, 1]


def test_logits_of_a_long_prompt_come_in_small_pieces() -> None:
    bench = Bench(piece_tokens=500)
    [one] = bench.submit("r", 200, prompt_logits=True)
    bench.until(lambda: answered(one) == 1)
    assert [step["r"] for step in bench.steps] == [64, 64, 64, 8]


def test_a_prompt_whose_logits_are_all_wanted_reuses_nothing() -> None:
    bench = Bench(rows=2, piece_tokens=64)
    prompt = words(40, seed=3)
    [first] = bench.submit("first", prompt)
    bench.until(lambda: answered(first) > 0)
    [again] = bench.submit("again", prompt, prompt_logits=True)
    bench.tick()
    assert again.cached_tokens == 0


def test_one_alone_may_fill_the_pool() -> None:
    bench = Bench(rows=2, kv_tokens=128, context=128)
    [one] = bench.submit("one", 100, longest=128)
    bench.until(lambda: len(one.tokens) == 128)
    assert bench.scheduler.preemptions == 0


@mixed
def test_each_adapter_has_steps_of_its_own_and_a_turn_in_every_tick(mixed_step: bool) -> None:
    bench = Bench(mixed_step=mixed_step, rows=6)
    adapters = [None, "pirate", "poet", "pirate", None, "poet"]
    running = {f"r{number}": bench.submit(f"r{number}", 10, adapter=adapter)[0]
               for number, adapter in enumerate(adapters)}
    bench.until(lambda: all(map(answered, running.values())))
    for _ in range(4):
        before = {name: answered(one) for name, one in running.items()}
        steps = bench.tick()
        assert [len({running[name].adapter for name in step}) for step in steps] == [1, 1, 1]
        assert {name: answered(one) - before[name] for name, one in running.items()} == dict.fromkeys(running, 1)


def test_a_tick_begins_with_the_adapter_that_the_last_one_ended_with() -> None:
    bench = Bench(rows=2)
    bench.submit("base", 10)
    bench.submit("pirate", 10, adapter="pirate")
    bench.until(lambda: len(bench.steps) >= 8)
    order = [name for step in bench.steps[2:8] for name in step]
    assert order[1:5:2] == order[2:6:2]
    assert set(order) == {"base", "pirate"}


def test_adapters_share_one_tick_of_prefill() -> None:
    """Else each of them would stall the others' tokens by a piece more."""
    bench = Bench(rows=4, piece_tokens=16)
    for name in ("a", "b", "c"):
        bench.submit(name, 200, adapter=None if name == "a" else {"b": "pirate", "c": "poet"}[name])
    for _ in range(6):
        assert sum(count for step in bench.tick() for count in step.values()) <= 16


@pytest.mark.parametrize("mixed_step", [True, False])
def test_what_is_forced_goes_before_prompts_and_all_of_it_in_one_tick(mixed_step: bool) -> None:
    bench = Bench(mixed_step=mixed_step, piece_tokens=40)
    [first], [second] = bench.submit("first", 8), bench.submit("second", 9)
    bench.until(lambda: bool(answered(first) and answered(second)))
    bench.submit("long", 300)
    bench.tick()
    for one, count in ((first, 5), (second, 7)):
        one.tokens.extend(words(count))
    for _ in range(2):  # whatever the turn among prompts
        counts: dict[str, int] = {}
        for step in bench.tick():
            counts |= step
        assert counts == {"first": 6, "second": 8, "long": 40 - 14}
        for one, count in ((first, 5), (second, 7)):
            one.tokens.extend(words(count))
