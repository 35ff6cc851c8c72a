"""Sampling whose draws depend on nothing but what they are for.

Adding a Gumbel variate to each logit and taking the greatest draws from the softmax of the logits (the Gumbel-max
trick; Maddison, Tarlow and Minka 2014). So sampling is one more step in front of the greedy choice, and each row has
its own source of variates: Philox (Salmon et al. 2011), keyed by a hash, counted by the position.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from transformers import LogitsProcessorList


@dataclass(frozen=True, slots=True)
class Draw:
    """How one answer is drawn; temperature 0 draws nothing."""

    temperature: float
    top_p: float
    seed: int
    example: str
    sample: int

    def variates(self, position: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """position: of the token within the answer."""
        said = hashlib.sha256(f"{self.seed} {self.sample} {self.example}".encode()).digest()
        bits = np.random.Philox(key=int.from_bytes(said[:16], "big"), counter=[0, position, 0, 0])
        return np.random.Generator(bits).gumbel(size=count)


class _Noise:
    """A logits processor of transformers; rows of the batch are those of `draws`."""

    def __init__(self, draws: list[Draw], prompt_length: int) -> None:
        self._draws = draws
        self._prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        import torch

        position = input_ids.shape[1] - self._prompt_length
        noise = np.stack([draw.variates(position, scores.shape[1]) for draw in self._draws])
        return scores + torch.from_numpy(noise).to(scores)


def processors(draws: list[Draw], prompt_length: int) -> LogitsProcessorList:
    """For `generate` with do_sample false. Temperature and top_p are those of the first, which all have."""
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

    found = LogitsProcessorList()
    how = draws[0]
    if how.temperature > 0:
        found.append(TemperatureLogitsWarper(how.temperature))
        if how.top_p < 1:
            found.append(TopPLogitsWarper(how.top_p))
        found.append(_Noise(draws, prompt_length))
    return found
