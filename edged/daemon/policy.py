"""Which models may be in memory: pure decisions, no I/O, no clock of its own.

Wants are served in the order of their tickets (the arrival of the oldest request that waits for the model). A want
that does not fit picks victims among models that lost the race to it: ready, not pinned, and with nobody waiting for
them who came earlier; idle ones first, and of those the ones whose memory is worth least: the time that a new load
takes, as often as a use is expected, by the memory that it would save (GreedyDual-Size, Cao and Irani 1997, with an
estimate of use in place of its inflation). Busy victims are not ended: they *yield*, which means that they finish what
they have and get nothing new, so that a model under constant load cannot starve another. What arrives for a yielding
model waits with a later ticket and is served in its turn. A model that has just loaded counts as busy until it got what
it was loaded for: no load is for nothing.

A want that is *unasked* (nobody waits for it, it was in memory before a restart) loads where there is room at that
moment, and else not at all. While it loads nobody waits for its memory: of all victims it is the first.

A later want may overtake a blocked one only where that cannot delay it: it fits now, and it would still fit once the
blocked one is in (conservative backfilling, Mu'alem and Feitelson 2001).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum, auto

from msgspec import Struct

#: Worths less than this apart are alike: what a load took differs from one time to the next.
ALIKE = 2.0


class Phase(Enum):
    LOADING = auto()
    READY = auto()
    STOPPING = auto()


class Live(Struct, frozen=True, kw_only=True):
    """A model that holds memory. ticket: of the oldest request that waits for it in the daemon, None without.
    used: monotonic seconds when it last got or finished work. rate: uses a second that are expected of it; load_s: what
    it took to load. busy: it has work, or is about to get what its load was for. unasked: it loads and nobody waits for
    it."""

    key: str
    held_bytes: int
    phase: Phase
    busy: bool = False
    pinned: bool = False
    ticket: int | None = None
    used: float = 0.0
    rate: float = 0.0
    load_s: float = 1.0
    unasked: bool = False

    @property
    def worth(self) -> float:
        """Seconds of loading that each byte saves in a second, as far as can be told."""
        return self.rate * self.load_s / max(1, self.held_bytes)


class Want(Struct, frozen=True, kw_only=True):
    """A model that is not ready and that somebody waits for. need_bytes: what it should take, from measurement or a
    guess; least_bytes: below that there is no sense in trying (engines fit their KV into what they are given). unasked:
    nobody waits, it is only to be there again."""

    key: str
    ticket: int
    need_bytes: int
    least_bytes: int
    unasked: bool = False


class Load(Struct, frozen=True):
    """It fits: start its worker. need_bytes are set aside; free_bytes: what it may take at most; everything: no
    eviction could give it more."""

    key: str
    need_bytes: int
    free_bytes: int
    everything: bool


class Evict(Struct, frozen=True):
    """Stop these idle models; the want waits until their memory is free."""

    key: str
    victims: tuple[str, ...]


class Wait(Struct, frozen=True):
    """Memory will come free. `yielding` get no new work until then; empty where it is on its way already."""

    key: str
    yielding: tuple[str, ...] = ()


class Shed(Struct, frozen=True):
    """It can never fit beside what is pinned."""

    key: str
    need_bytes: int
    free_bytes: int


class Skip(Struct, frozen=True):
    """Nobody asked for it, and there is no room for it now."""

    key: str


Decision = Load | Evict | Wait | Shed | Skip


def decide(want: Want, live: Sequence[Live], budget_bytes: int, *, leaving: frozenset[str] = frozenset(),
           reserved_bytes: int = 0) -> Decision:
    """What to do for one want. leaving: victims of earlier wants; reserved_bytes: what those wants will take."""
    staying = [model for model in live
               if model.phase is not Phase.STOPPING and model.key not in leaving and model.key != want.key]
    pinned_bytes = sum(model.held_bytes for model in staying if model.pinned)
    possible_bytes = budget_bytes - pinned_bytes
    held_bytes = sum(model.held_bytes for model in live)
    later_bytes = sum(model.held_bytes for model in staying) + reserved_bytes
    if want.unasked and max(held_bytes, later_bytes) + want.need_bytes > budget_bytes:
        return Skip(want.key)
    if want.least_bytes > possible_bytes:
        return Shed(want.key, want.least_bytes, max(0, possible_bytes))
    need_bytes = min(want.need_bytes, possible_bytes)
    short_bytes = later_bytes + need_bytes - budget_bytes
    if short_bytes <= 0:
        free_bytes = budget_bytes - max(held_bytes, later_bytes)
        if need_bytes > free_bytes or any(model.key == want.key for model in live):
            return Wait(want.key)
        return Load(want.key, need_bytes, free_bytes, everything=free_bytes >= possible_bytes)
    victims = choose_victims(want, staying, short_bytes)
    if victims and not any(victim.busy for victim in victims):
        return Evict(want.key, tuple(victim.key for victim in victims))
    return Wait(want.key, tuple(victim.key for victim in victims))


def choose_victims(want: Want, staying: Iterable[Live], short_bytes: int) -> list[Live]:
    """The fewest needed of those that may go, idle before busy and each least worth first; [] where all of them
    together are not enough."""
    candidates = least_worth_first(
        model for model in staying if (model.phase is Phase.READY or model.unasked) and not model.pinned
        and (model.ticket is None or model.ticket > want.ticket))
    victims: list[Live] = []
    freed_bytes = 0
    for model in candidates:
        if freed_bytes >= short_bytes:
            break
        victims.append(model)
        freed_bytes += model.held_bytes
    if freed_bytes < short_bytes:
        return []
    for model in reversed(tuple(victims)):
        if freed_bytes - model.held_bytes >= short_bytes:
            victims.remove(model)
            freed_bytes -= model.held_bytes
    return victims


def least_worth_first(models: Iterable[Live]) -> list[Live]:
    """First what loads and nobody waits for, then idle ones before busy ones; of those worth about as little as the
    least, who was not used for longest."""
    left, order = list(models), []
    while left:
        group = ([model for model in left if model.unasked] or [model for model in left if not model.busy] or left)
        least = min(model.worth for model in group)
        order.append(min((model for model in group if model.worth <= ALIKE * least),
                         key=lambda model: (model.used, model.key)))
        left.remove(order[-1])
    return order


def plan(wants: Iterable[Want], live: Iterable[Live], budget_bytes: int) -> list[Decision]:
    """One decision for each want, the oldest ticket first, unasked ones last; together they keep within the budget."""
    held = list(live)
    leaving: frozenset[str] = frozenset()
    reserved_bytes = 0
    decisions: list[Decision] = []
    for want in sorted(wants, key=lambda want: (want.unasked, want.ticket)):
        decision = decide(want, held, budget_bytes, leaving=leaving, reserved_bytes=reserved_bytes)
        decisions.append(decision)
        match decision:
            case Load(need_bytes=need_bytes):
                held.append(Live(key=want.key, held_bytes=need_bytes, phase=Phase.LOADING))
            case Evict(victims=victims) | Wait(yielding=victims):
                leaving |= frozenset(victims)
                reserved_bytes += want.need_bytes
    return decisions


class Trim(Struct, frozen=True):
    """Idle models to stop; where that is not enough, busy ones that get no new work until they can be."""

    victims: tuple[str, ...]
    yielding: tuple[str, ...]


def trim(live: Iterable[Live], budget_bytes: int) -> Trim:
    """What to do because what is loaded has grown over the budget (KV is admitted by what it takes, not by what is set
    aside for it): least worth first, idle ones before busy ones. The most recently used one stays."""
    staying = sorted((model for model in live if model.phase is not Phase.STOPPING), key=lambda model: model.used)
    over_bytes = sum(model.held_bytes for model in staying) - budget_bytes
    victims: list[str] = []
    yielding: list[str] = []
    for model in least_worth_first(staying[:-1]):
        if over_bytes <= 0:
            break
        if model.phase is Phase.READY and not model.pinned:
            (yielding if model.busy else victims).append(model.key)
            over_bytes -= model.held_bytes
    return Trim(tuple(victims), tuple(yielding))


def expires_at(*, idle_since: float | None, keep_alive_s: float, pinned: bool) -> float | None:
    """When an idle model is unloaded; None: never. keep_alive_s -1 (any negative) is for ever."""
    if idle_since is None or pinned or keep_alive_s < 0:
        return None
    return idle_since + keep_alive_s
