"""Changes to logits before sampling: logit bias and the penalties of one choice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edged.errors import InvalidRequest
from edged.types import SamplingParams

#: A penalty near 0 would make a likely token's logit infinite, which is no number to draw by.
_FLOAT = np.finfo(np.float32)


class Adjustments:
    """Owns the token counts of one choice. Costs grow with the distinct tokens seen, not with the vocabulary.

    Bias first, then repetition, then presence and frequency: the order of llama.cpp and vLLM.
    """

    def __init__(self, params: SamplingParams, prompt: Sequence[int], vocab_size: int) -> None:
        bias = params.logit_bias or {}
        for token in bias:
            if not 0 <= token < vocab_size:
                raise InvalidRequest(
                    f"logit_bias names token {token}, but this model's tokens are 0 to {vocab_size - 1}.",
                    param="logit_bias",
                )
        self._bias_ids = np.fromiter(bias.keys(), np.intp, len(bias))
        self._bias = np.fromiter(bias.values(), np.float32, len(bias))
        self._repetition = max(np.float32(params.repetition_penalty or 1.0), _FLOAT.tiny)
        self._presence = np.float32(params.presence_penalty or 0.0)
        self._frequency = np.float32(params.frequency_penalty or 0.0)
        self._counting = bool(self._repetition != 1 or self._presence != 0 or self._frequency != 0)
        # Distinct tokens seen, in the first `_seen` places, and how often each was generated (0: in the prompt only).
        prompt_ids = np.unique(np.asarray(prompt, np.intp)) if self._repetition != 1 else np.empty(0, np.intp)
        self._seen = len(prompt_ids)
        self._ids = np.concatenate([prompt_ids, np.zeros(64, np.intp)])
        self._counts = np.zeros(len(self._ids), np.float32)
        self._place = {int(token): place for place, token in enumerate(prompt_ids)}

    @property
    def off(self) -> bool:
        return not self._counting and len(self._bias_ids) == 0

    def accept(self, token: int) -> None:
        """Count one generated token."""
        if not self._counting:
            return
        place = self._place.setdefault(token, self._seen)
        if place == self._seen:
            if self._seen == len(self._ids):
                self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._ids[place] = token
            self._seen += 1
        self._counts[place] += 1

    def apply(self, logits: NDArray[np.float32]) -> None:
        """Adjust in place; shape [vocab]."""
        logits[self._bias_ids] += self._bias
        if self._seen == 0:
            return
        ids, counts = self._ids[: self._seen], self._counts[: self._seen]
        values = logits[ids]
        if self._repetition != 1:
            with np.errstate(over="ignore", under="ignore"):
                penalised = np.where(values > 0, values / self._repetition, values * self._repetition)
            values = np.where(np.isfinite(values), np.minimum(penalised, _FLOAT.max), penalised)
        values -= self._frequency * counts + self._presence * (counts > 0)
        logits[ids] = values
