"""From logits to the next tokens of one choice: the one that is drawn, and those that its constraint then forces."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edged.engines.base import Logits, Vocab
from edged.worker.prepare import Prepared
from edged.worker.sampler import Sampler


class Chosen(NamedTuple):
    """logits: shape [vocab], of which the token was drawn, as the model gave them, -inf where the constraint allows
    none; None for a token that was forced."""

    token: int
    logits: Logits | None


class Chooser:
    """Owned by the loop, with the sampler's counts and the constraint's state of one choice.

    Without a constraint it costs nothing beyond the sampler.
    """

    def __init__(self, prepared: Prepared, index: int, vocab: Vocab, seed: int) -> None:
        self._sampler = Sampler(
            prepared.sampling, seed=seed, choice=index, prompt=prepared.tokens, vocab_size=vocab.size)
        self._matcher = None if prepared.compiled is None else prepared.compiled.matcher()
        self._end = vocab.end
        self._scored = prepared.request.logprobs is not None

    @property
    def exact(self) -> bool:
        """The constraint holds from the first token on, so every byte of the answer counts."""
        return self._matcher is not None and not self._matcher.free

    @property
    def complete(self) -> bool:
        """The constraint allows nothing but the end."""
        return self._matcher is not None and self._matcher.finished

    def next(self, logits: Logits, position: int) -> list[Chosen]:
        """logits: [vocab], after the last token. position: of the next one among those generated. At least one token;
        after one that ends the answer none. Raises EngineError for logits that are no numbers, and what a Matcher
        raises."""
        if self._matcher is None:
            token = self._sampler.sample(logits, position)
            self._sampler.accept(token)
            return [Chosen(token, logits)]
        # Before the first token only: each later call leaves none.
        chosen = self._forced() if position == 0 else []
        if not chosen:
            drawn = self._draw(logits, position)
            self._sampler.accept(drawn.token)
            if drawn.token in self._end:
                return [drawn]
            self._matcher.accept([drawn.token])
            chosen = [drawn]
        while forced := self._forced():
            chosen += forced
        return chosen

    def _draw(self, logits: Logits, position: int) -> Chosen:
        assert self._matcher is not None
        allowed = self._matcher.mask()
        token = self._sampler.sample(logits, position, allowed)
        while self._matcher.refuses(token):
            allowed = np.ones(len(logits), np.bool_) if allowed is None else allowed
            allowed[token] = False
            token = self._sampler.sample(logits, position, allowed)
        if allowed is not None and self._scored:
            logits = np.where(allowed, logits, np.float32(-np.inf))
        return Chosen(token, logits)

    def _forced(self) -> list[Chosen]:
        assert self._matcher is not None
        tokens = self._matcher.forced()
        self._matcher.accept(tokens)
        for token in tokens:
            self._sampler.accept(token)
        return [Chosen(token, None) for token in tokens]
