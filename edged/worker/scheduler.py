"""Which sequences have a row, and which tokens the next steps compute. Continuous batching: decoding rows advance in
every tick, prefill goes beside them in pieces.

No clock, no engine step, no text here: the loop runs what `plan` says and reports it with `advance`. All state of
sequences is owned here; rows and their KV by `Rows`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from edged.engines.base import Capabilities
from edged.worker.prefix import forgotten
from edged.worker.rows import MIN_GAIN_TOKENS, Rows
from edged.worker.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Piece:
    """The next `count` pending tokens of a sequence, `logits` of the last positions wanted. draft: tokens that may come
    after them, computed along; the logits are those after the last pending token and after each of the draft."""

    sequence: Sequence
    count: int
    logits: int
    draft: list[int] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return self.count + len(self.draft)


#: Positions of a prompt whose logits one piece asks for: each is a vocabulary of floats, and work for one thread.
LOGITS_TOKENS = 64

#: Moving the KV of fewer takes no time that shows.
LONG_COPY_TOKENS = 256

#: What one call of the engine computes.
Step = list[Piece]


class Scheduler:
    def __init__(self, caps: Capabilities, rows: Rows, *, stash_limit_bytes: int) -> None:
        self._caps = caps
        self._rows = rows
        self._stash_limit_bytes = stash_limit_bytes
        # By client, in the order of their turns: who gets a row goes to the end, who comes new as well.
        self._waiting: dict[str, deque[Sequence]] = {}
        self._stashed: list[Sequence] = []
        self._running: list[Sequence] = []
        self._arrivals = 0
        self._ticks = 0
        #: Of the last step that was planned.
        self._adapter: str | None = None
        self.preemptions = 0

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values())) + len(self._stashed)

    @property
    def active(self) -> list[Sequence]:
        """Those that the next tick computes."""
        return [sequence for sequence in self._running if not sequence.paused]

    @property
    def runnable(self) -> bool:
        """There is something to compute, or to admit, that no pause holds back."""
        return any(not sequence.paused for sequence in self._everyone())

    def submit(self, sequence: Sequence) -> None:
        self._arrivals += 1
        sequence.order = self._arrivals
        for sibling in sequence.siblings:
            sibling.order = self._arrivals
        self._waiting.setdefault(sequence.client, deque()).append(sequence)

    def cancel(self, request: str) -> None:
        """Every choice of the request is forgotten; what KV there is stays as an idle row."""
        for sequence in [sequence for sequence in self._everyone() if sequence.request == request]:
            sequence.siblings.clear()
            self.finish(sequence)

    def pause(self, request: str, paused: bool) -> None:
        for sequence in self._everyone():
            for one in (sequence, *sequence.siblings):
                if one.request == request:
                    one.paused = paused

    def forget(self) -> None:
        """No request to come has anything from those there are, or were."""
        self._rows.forget()
        for sequence in self._everyone():
            for one in (sequence, *sequence.siblings):
                one.scope = forgotten(one.scope)

    def finish(self, sequence: Sequence) -> None:
        """Ended, whatever its phase. Siblings that waited for it still run."""
        if sequence in self._running:
            self._running.remove(sequence)
            assert sequence.row is not None
            self._settle(sequence)
            self._rows.release(sequence.row)
        elif sequence in self._stashed:
            self._stashed.remove(sequence)
        else:
            self._forget_waiting(sequence)
        sequence.row = sequence.state = None

    def fail(self, sequence: Sequence) -> None:
        """Like finish, after the engine failed: the row's KV is void. After a failed step call this for all of it
        before anything else: until then their rows pass for good ones."""
        row = sequence.row
        self.finish(sequence)
        if row is not None:
            self._rows.discard(row)

    def admit(self) -> list[Sequence]:
        """Give rows to those who wait, stashed ones first, then fairly between clients. Returns who came in new.

        Where a tick computes a piece of one prompt only, one long beginning is copied a tick: to copy those of all who
        wait first would hold up the first of them."""
        admitted = []
        while (sequence := self._next()) is not None and self._place(sequence):
            if not sequence.admitted:
                sequence.admitted = True
                admitted.append(sequence)
            if not self._caps.mixed_step and sequence.length >= LONG_COPY_TOKENS:
                break
        return admitted

    def plan(self, piece_tokens: int) -> list[Step]:
        """The steps of one tick. piece_tokens: how much prefill they may hold together."""
        self._ticks += 1
        self._make_room(piece_tokens)
        active = self.active
        decode = [Piece(sequence, 1, 1) for sequence in active if sequence.pending == 1]
        prefill = _by_turn([sequence for sequence in active if sequence.pending > 1], self._ticks)
        if self._caps.mixed_step:
            room = self._caps.step_tokens - len(decode)
            pieces = _pieces(prefill[: self._caps.multi_token_rows], min(piece_tokens, room))
            room -= sum(piece.count for piece in pieces)
            return self._by_adapter([_with_drafts(decode + pieces, room)])
        # Of each answer what is forced, and of one prompt a piece: all of them rows of many tokens, as drafts are.
        several = 1 + sum(sequence.answering for sequence in prefill)
        pieces = _pieces(prefill[:several], min(piece_tokens, self._caps.step_tokens))
        pieces = [_with_drafts([piece], self._caps.step_tokens - piece.count)[0] for piece in decode + pieces]
        together = [piece for piece in pieces if piece.tokens == 1]
        return self._by_adapter([together, *([piece] for piece in pieces if piece.tokens > 1)])

    def _by_adapter(self, steps: list[Step]) -> list[Step]:
        """Engines compute with one adapter at a time, so each step becomes one for each adapter in it. All of them have
        their turn in every tick, so that none waits for the answers of others; the one that the engine has set goes
        first, which saves a switch a tick."""
        split: list[Step] = []
        for step in steps:
            groups: dict[str | None, Step] = {}
            for piece in step:
                groups.setdefault(piece.sequence.adapter, []).append(piece)
            split += [groups[adapter] for adapter in sorted(groups, key=lambda adapter: adapter != self._adapter)]
            if split:
                self._adapter = split[-1][0].sequence.adapter
        return split

    def advance(self, step: Step) -> None:
        """The engine has computed the step."""
        for piece in step:
            sequence = piece.sequence
            assert sequence.row is not None
            sequence.length += piece.count
            sequence.drafted = len(piece.draft)
            self._rows.grow(sequence.row, piece.tokens)
            if not self._caps.trims and sequence.length in sequence.cuts:
                self._rows.checkpoint(sequence.row)
            if sequence.siblings and sequence.length >= self._shared_length(sequence):
                # Their prompt has KV now, so admission forks it. They arrived with this one: first in the queue.
                self._waiting.setdefault(sequence.client, deque()).extendleft(reversed(sequence.siblings))
                sequence.siblings = []

    def accept(self, sequence: Sequence, count: int) -> bool:
        """The first `count` tokens of the draft computed last are what came, and are in `tokens`; the others leave the
        row. False where the engine could not keep all before them: that is computed again."""
        sequence.length += count
        wanted = sequence.length
        self._settle(sequence)
        return sequence.length == wanted

    def _settle(self, sequence: Sequence) -> None:
        if sequence.drafted:
            assert sequence.row is not None
            sequence.drafted = 0
            sequence.length = self._rows.shrink(sequence.row, sequence.length)

    def _everyone(self) -> Iterable[Sequence]:
        yield from self._running
        yield from self._stashed
        for queue in list(self._waiting.values()):
            yield from list(queue)

    def _next(self) -> Sequence | None:
        """Who may have the next row: the oldest one that lost its own, else the first of the client that holds the
        fewest rows, whose turn it is among equals. Paused ones could do nothing with it, and who waits for what another
        computes is passed."""
        stashed = min((s for s in self._stashed if not s.paused), key=_age, default=None)
        if stashed is not None:
            return stashed
        rows_of = dict.fromkeys(self._waiting, 0)
        for sequence in self._running:
            if sequence.client in rows_of and not sequence.paused:
                rows_of[sequence.client] += 1
        for client in sorted(self._waiting, key=rows_of.__getitem__):
            for sequence in self._waiting[client]:
                if not sequence.paused and not self._held_back(sequence):
                    return sequence
        return None

    def _held_back(self, sequence: Sequence) -> bool:
        """Another computes more of its prompt than there is now, and that is worth waiting for: it spares the engine
        some work, and comes no later than this one's own computing beside the other would. It ends with the leader's
        progress, or its end, so nobody waits for ever: who leads runs, and waits for nobody."""
        leader = sequence.leader
        if leader is not None:
            if leader.row is not None and not leader.paused and leader.length < sequence.awaited:
                return True
            sequence.leader = None
        if sequence.prompt_logits or not self._running:
            return False
        have, coming = self._rows.reusable(sequence.tokens, adapter=sequence.adapter, scope=sequence.scope)
        running = {other.row: other for other in self._running if not other.paused}
        for row, common in coming:
            leader, spared = running.get(row), common - have
            if spared < MIN_GAIN_TOKENS:
                return False
            if leader is not None and common - leader.length <= 2 * spared:
                sequence.leader, sequence.awaited = leader, common
                leader.cuts.add(common)
                return True
        return False

    def _shared_length(self, sequence: Sequence) -> int:
        """What its siblings begin with. KV that cannot go back must be left before the last token, which each of them
        computes for its logits."""
        return sequence.prompt_length if self._caps.trims else sequence.prompt_length - 1

    def _place(self, sequence: Sequence) -> bool:
        """Give the sequence a row and its KV, if there is room beside what runs. Takes it off its queue then."""
        need = len(sequence.tokens) + sequence.allowance
        while self._rows.busy_tokens + self._reserved() + need > self._caps.kv_tokens or (
            self._rows.busy == self._caps.rows
        ):
            if not self._stash_one([running for running in self._running if running.paused]):
                return False
        if sequence.state is not None:
            placed = self._rows.unstash(
                sequence.tokens, sequence.state, adapter=sequence.adapter, scope=sequence.scope)
        else:
            if not self._caps.trims:
                self._plan_checkpoints(sequence)
            placed = self._rows.take(
                sequence.tokens, reuse=not sequence.prompt_logits, adapter=sequence.adapter, scope=sequence.scope,
                uses=sequence.uses if not sequence.admitted and sequence.index == 0 else 0)
        if placed is None:
            return False
        if sequence in self._stashed:
            self._stashed.remove(sequence)
        else:
            self._forget_waiting(sequence)
            if sequence.client in self._waiting:
                self._waiting[sequence.client] = self._waiting.pop(sequence.client)
            sequence.cached_tokens, sequence.cached_from = placed.length, placed.source
        sequence.row, sequence.length = placed.row, placed.length
        sequence.state = None
        self._running.append(sequence)
        return True

    def _plan_checkpoints(self, sequence: Sequence) -> None:
        """Where KV does not go back, it must be kept when it is there: where the prompt parts from another, and before
        its last token, for the same prompt again and for what follows it."""
        known = self._rows.known(sequence.tokens, adapter=sequence.adapter, scope=sequence.scope)
        sequence.cuts |= {at for at in (known, self._shared_length(sequence)) if at >= MIN_GAIN_TOKENS or (
            at and sequence.siblings)}

    def _forget_waiting(self, sequence: Sequence) -> None:
        queue = self._waiting.get(sequence.client)
        if queue is not None and sequence in queue:
            queue.remove(sequence)
            if not queue:
                del self._waiting[sequence.client]

    def _reserved(self) -> int:
        """Room that running sequences were promised and have not used: the rest of their prompt, and a little."""
        return sum(sequence.pending + sequence.allowance for sequence in self._running)

    def _make_room(self, piece_tokens: int) -> None:
        """KV for the next tick: drop idle prefixes, then stash the youngest, those paused first. One always stays, and
        fits, since no row is larger than the pool."""
        while True:
            active = self.active
            decoding = sum(sequence.pending == 1 for sequence in active)
            piece = min(piece_tokens, sum(sequence.pending for sequence in active if sequence.pending > 1))
            drafted = sum(len(sequence.draft) for sequence in active)
            if self._rows.used_tokens + decoding + piece + drafted <= self._caps.kv_tokens:
                return
            if drafted:
                # Nobody loses anything for what may not come.
                for sequence in active:
                    sequence.draft = []
                continue
            if self._rows.drop_idle():
                continue
            paused = [sequence for sequence in self._running if sequence.paused]
            if not self._stash_one(paused) and (len(active) < 2 or not self._stash_one(active)):
                return

    def _stash_one(self, candidates: list[Sequence]) -> bool:
        """Move the youngest candidate's KV out. Over the limit it is dropped, and computed again on return."""
        victim = max(candidates, key=_age, default=None)
        if victim is None or victim.row is None:
            return False
        size = victim.length * self._caps.state_bytes_per_token
        held = sum(stashed.state.size_bytes for stashed in self._stashed if stashed.state is not None)
        if held + size <= self._stash_limit_bytes:
            victim.state = self._rows.stash(victim.row)
        else:
            self._rows.discard(victim.row)
        victim.row, victim.length = None, 0
        self._running.remove(victim)
        self._stashed.append(victim)
        self.preemptions += 1
        return True


def _age(sequence: Sequence) -> tuple[int, int]:
    return sequence.order, sequence.index


def _by_turn(prefill: list[Sequence], tick: int) -> list[Sequence]:
    """Answers go before prompts: what a constraint forces is a few tokens, and somebody reads along. Then the shortest
    rest, up to where others wait to go on, which gives the least mean time to a first token, and in every second tick
    the oldest, so that a long prompt is not starved."""
    if tick % 2:
        return sorted(prefill, key=lambda sequence: (not sequence.answering, _age(sequence)))
    return sorted(prefill, key=lambda sequence: (not sequence.answering, sequence.next_cut, sequence.order))


def _with_drafts(pieces: list[Piece], room: int) -> list[Piece]:
    """The same pieces, after which each of those that end where their sequence does computes its draft, in `room`
    tokens together. A draft is for one tick."""
    found = []
    for piece in pieces:
        sequence = piece.sequence
        draft = sequence.draft[:max(room, 0)] if sequence.answering and piece.count == sequence.pending else []
        sequence.draft = []
        room -= len(draft)
        found.append(Piece(sequence, piece.count, 1 + len(draft), draft) if draft else piece)
    return found


def _pieces(prefill: list[Sequence], budget: int) -> list[Piece]:
    pieces = []
    for sequence in prefill:
        if budget <= 0:
            break
        count = min(sequence.pending, sequence.next_cut, budget)
        if sequence.prompt_logits and sequence.length < sequence.prompt_length:
            logits = count = min(count, LOGITS_TOKENS)
        else:
            logits = int(count == sequence.pending)
        budget -= count
        pieces.append(Piece(sequence, count, logits))
    return pieces
