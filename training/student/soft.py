"""Soft targets: what a teacher finds likely, cut to its likeliest tokens, and how far a student is from it. Torch only,
no model.

Hinton, Vinyals and Dean 2015 (Distilling the Knowledge in a Neural Network): both distributions at a temperature, and
the divergence times its square, so that its gradients are as large as those of the text at any temperature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: Tokens kept a position; what lies below them is one more outcome. Of a teacher that knows its task they hold nearly
#: all: 32 of 49,152 tokens are 200 bytes a position instead of 98,304.
TOP = 32


@dataclass(frozen=True, slots=True)
class Targets:
    """tokens: int64 [positions, kept]; logs: float32, natural logarithms of their probabilities at the temperature,
    [positions, kept]. The probability that is missing to 1 is that of all other tokens together."""

    tokens: Any
    logs: Any

    def to(self, device: Any) -> Targets:
        return Targets(self.tokens.to(device), self.logs.to(device))


def targets(logits: Sequence[Any], weights: Sequence[float], temperature: float) -> Targets:
    """logits: of each teacher, [positions, vocabulary]. Several count as one that mixes their distributions by weight:
    the divergence from the mixture has the same gradient as the weighted mean of the divergences from each."""
    import torch

    whole = sum(weights)
    mixed = torch.logsumexp(torch.stack([
        torch.log_softmax(each.float() / temperature, -1) + torch.tensor(weight / whole).log()
        for each, weight in zip(logits, weights, strict=True)]), 0)
    logs, tokens = mixed.topk(min(TOP, mixed.shape[-1]), -1)
    return Targets(tokens, logs)


def divergence(logits: Any, wanted: Targets, temperature: float) -> Any:
    """KL(wanted ‖ student) · temperature² of each position, in nats, between the kept tokens and one outcome for all
    others: never more than the divergence of the full distributions, and the same where all is kept.

    logits: of the student, [positions, vocabulary]; its gradient flows through them.
    """
    import torch

    scaled = logits.float() / temperature
    total = torch.logsumexp(scaled, -1)
    said = scaled.gather(-1, wanted.tokens) - total[:, None]
    kept = wanted.logs.exp()
    sums = (kept * (wanted.logs - said)).sum(-1)
    if wanted.tokens.shape[-1] < logits.shape[-1]:
        rest = (1 - kept.sum(-1)).clamp(min=0)
        said_rest = torch.logsumexp(scaled.scatter(-1, wanted.tokens, float("-inf")), -1) - total
        # Where nothing is missing, no outcome is left: 0 · log 0 is 0.
        sums = sums + torch.where(rest > 0, rest * (rest.clamp(min=1e-30).log() - said_rest), 0.0)
    return sums * temperature ** 2
