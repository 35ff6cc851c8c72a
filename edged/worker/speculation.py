"""Which running sequences verify a draft in the next tick, and of what length: only where measurement says that it
pays, and now and then a short one to see whether it would.

The text is none of its business: whatever is proposed, each token is chosen from the model's own logits as if nothing
had been (`Answer.take`). A draft that is refused costs time and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import structlog

from edged.engines.base import Capabilities, Threads
from edged.worker.acceptance import LONGEST_DRAFT, MODEL, Acceptance, StepCosts, best_lengths, kind_of
from edged.worker.lookup import Lookup
from edged.worker.payoff import Payoff
from edged.worker.sequence import Sequence

#: Of one sequence taken in by its index in one tick, under a millisecond.
INDEX_TOKENS = 1024
#: Tokens of a draft that is tried though it does not seem to pay; and after how many ticks that had one to offer, at
#: first and at most: each trial after which it still does not seem to doubles the wait.
TRIAL_TOKENS = 3
FIRST_PATIENCE, LONGEST_PATIENCE = 4, 256
#: The part of the time that trials may take, and what they may take before any time has passed.
TRIAL_SHARE, FIRST_TRIALS_S = 0.02, 0.03

log = structlog.get_logger("worker")


class DraftModel(Protocol):
    """Proposes by computing: `token_s` is what a token of a draft takes."""

    token_s: float

    def close(self) -> None: ...

    def set_threads(self, threads: Threads) -> None:
        """At most so many, where it can set them."""

    def propose(self, wanted: list[tuple[Sequence, int]]) -> list[list[int]]:
        """For each sequence so many tokens, or fewer."""
        ...


@dataclass(slots=True)
class Guesses:
    """What is known of one sequence. kind: of the draft that is being verified. declined: ticks since one was.
    patience: of them before the next trial."""

    lookup: Lookup
    acceptance: Acceptance
    kind: int = MODEL
    declined: int = 0
    patience: int = FIRST_PATIENCE


@dataclass(slots=True)
class _Offer:
    """A draft that could be verified: its kind and its tokens, or how many a draft model may propose."""

    sequence: Sequence
    guesses: Guesses
    kind: int
    tokens: list[int]
    most: int


class Speculation:
    """Owned by the loop; owner of `Sequence.draft` and `Sequence.guesses`."""

    def __init__(self, caps: Capabilities, end: frozenset[int], *, tokens_per_s: float,
                 model: DraftModel | None = None) -> None:
        """end: tokens that end an answer. tokens_per_s: at which prompts are read."""
        self._end = end
        self._costs = StepCosts(tokens_per_s, mixed_step=caps.mixed_step)
        self._prior = Acceptance()
        self._model = model
        self._on = caps.all_logits and caps.trims
        self._payoff = Payoff()
        #: What trials may still take.
        self._trials_s = FIRST_TRIALS_S
        self._trying = False
        #: Who answers in this tick, with how many tokens there were; nobody where a prompt is computed too.
        self._answering: list[tuple[Sequence, int]] = []
        self.proposed_tokens = 0
        self.accepted_tokens = 0

    def propose(self, sequences: Iterable[Sequence]) -> None:
        """sequences: all that run and are not paused. Sets the draft of those that are to verify one."""
        self._trying = False
        answering: dict[str | None, list[Sequence]] = {}
        everyone = list(sequences) if self._on else []
        for sequence in everyone:
            sequence.draft = []
            if sequence.guesses is None:
                sequence.guesses = Guesses(Lookup(sequence.tokens), Acceptance(self._prior))
                self._payoff.renew()
            sequence.guesses.lookup.index(INDEX_TOKENS)
            if sequence.answering:
                answering.setdefault(sequence.adapter, []).append(sequence)
        rows = sum(map(len, answering.values()))
        self._answering = [(sequence, len(sequence.tokens)) for sequence in everyone if rows == len(everyone)]
        if self._costs.known and self._payoff.pays(rows):
            # Those of an adapter share their steps.
            for group in answering.values():
                self._propose(group)

    def ticked(self, seconds: float) -> None:
        """All steps of the tick that `propose` was for were computed, and their tokens chosen."""
        tokens = [len(sequence.tokens) - before for sequence, before in self._answering]
        # None where one failed, or lost its row.
        if tokens and all(tokens):
            self._payoff.observe(tokens, seconds, drafted=any(sequence.draft for sequence, _ in self._answering))
            self._trials_s = min(FIRST_TRIALS_S, self._trials_s + TRIAL_SHARE * seconds)
            if self._trying:
                self._trials_s -= max(0.0, seconds - self._costs.tick_s(len(tokens), []))

    def verified(self, sequence: Sequence, proposed: int, accepted: int, *, refused: bool) -> None:
        """refused: another token came than the one after the accepted ones."""
        guesses = sequence.guesses
        assert guesses is not None
        self.proposed_tokens += proposed
        self.accepted_tokens += accepted
        guesses.acceptance.observe(guesses.kind, accepted, refused=refused)

    def observe(self, rows: int, tokens: int, seconds: float) -> None:
        """A step was computed: of so many rows and tokens, drafts among them."""
        self._costs.observe(rows, tokens, seconds)

    def close(self) -> None:
        if self._model is not None:
            self._model.close()

    def set_threads(self, threads: Threads) -> None:
        """Of a draft model, which computes in turn with the one that is served."""
        if self._model is not None:
            self._model.set_threads(threads)

    def give_up(self) -> None:
        """The engine could not take back what was refused, whatever it said of itself."""
        if self._on:
            log.warning("speculation_off", reason="this model's KV cannot go back to an earlier length")
        self._on = False

    def _propose(self, group: list[Sequence]) -> None:
        offers = [offer for sequence in group if (offer := self._offer(sequence)) is not None]
        if not offers:
            return
        lengths = best_lengths(
            len(group), [offer.guesses.acceptance.survival(offer.kind, offer.most) for offer in offers], self._costs,
            token_s=[0.0 if offer.tokens or self._model is None else self._model.token_s for offer in offers])
        for offer, length in zip(offers, lengths, strict=True):
            if length:
                offer.guesses.patience = FIRST_PATIENCE
        wanted = [(offer, length or self._trial(offer)) for offer, length in zip(offers, lengths, strict=True)]
        asked = [(offer.sequence, length) for offer, length in wanted if length and not offer.tokens]
        drafted = dict(zip((sequence for sequence, _ in asked), self._model.propose(asked), strict=True)) if (
            asked and self._model is not None) else {}
        for offer, length in wanted:
            offer.guesses.declined = 0 if length else offer.guesses.declined + 1
            offer.guesses.kind = offer.kind
            offer.sequence.draft = self._whole(drafted.get(offer.sequence, offer.tokens[:length]))

    def _offer(self, sequence: Sequence) -> _Offer | None:
        guesses = sequence.guesses
        assert guesses is not None
        # The token that is chosen after the last one of a draft needs room too.
        most = min(LONGEST_DRAFT, sequence.max_length - len(sequence.tokens) - 1)
        if most <= 0:
            return None
        if (match := guesses.lookup.find()) is not None:
            tokens = self._whole(guesses.lookup.continuation(match.start, most))
            return _Offer(sequence, guesses, kind_of(match.length), tokens, len(tokens))
        return None if self._model is None else _Offer(sequence, guesses, MODEL, [], most)

    def _trial(self, offer: _Offer) -> int:
        guesses = offer.guesses
        if guesses.declined < guesses.patience or self._trying or self._trials_s <= 0:
            return 0
        self._trying = True
        guesses.patience = min(2 * guesses.patience, LONGEST_PATIENCE)
        return min(TRIAL_TOKENS, offer.most)

    def _whole(self, draft: list[int]) -> list[int]:
        """Nothing comes after an end."""
        ends = (place for place, token in enumerate(draft, start=1) if token in self._end)
        return draft[:next(ends, None)]
