"""How far one model's next-token distributions are from another's: pure numpy, in float64.

All figures are sums over positions, so that logits may come in pieces of any size: the sums of the pieces are those of
the whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Logits that a graph masks out are -inf; nothing is less likely than e to this power. It keeps every figure finite, as
#: JSON needs them.
FLOOR_NATS = -9999.0
#: e to more than this is no float64.
LARGEST_EXPONENT = 700.0
#: A vocabulary of 262,144 in float64 is 2 MiB a position: so many bytes are worked on at once.
BLOCK_BYTES = 8 << 20


class NoDistribution(ValueError):
    """A row of logits whose greatest value is no number. side: "reference" or "result"; position: the row's index."""

    def __init__(self, side: str, position: int) -> None:
        super().__init__(f"the logits of the {side} at position {position} are no distribution")
        self.side, self.position = side, position


@dataclass(frozen=True, slots=True)
class Sums:
    """Over `positions`: KL(reference ‖ result), agreements of the likeliest token, and the negative log-likelihoods
    of the real next token under both; in nats."""

    positions: int = 0
    divergence: float = 0.0
    agreements: int = 0
    result_loss: float = 0.0
    reference_loss: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.positions + other.positions, self.divergence + other.divergence, self.agreements + other.agreements,
            self.result_loss + other.result_loss, self.reference_loss + other.reference_loss,
        )

    @property
    def kl_divergence(self) -> float:
        """Mean, in nats a token."""
        return self.divergence / self.positions

    @property
    def top1_agreement(self) -> float:
        return self.agreements / self.positions

    @property
    def perplexity(self) -> float:
        return _perplexity(self.result_loss, self.positions)

    @property
    def reference_perplexity(self) -> float:
        return _perplexity(self.reference_loss, self.positions)


def compare(reference: NDArray[np.float32], result: NDArray[np.float32], targets: NDArray[np.int64]) -> Sums:
    """reference, result: logits, shape [positions, vocabulary]; targets: the token that really comes next, shape
    [positions]. Both like the same token best where their first greatest logits are at the same place. Raises
    NoDistribution for NaN, +inf, and rows of nothing but -inf."""
    count, vocabulary = reference.shape
    step = max(1, BLOCK_BYTES // (8 * vocabulary))
    sums = Sums()
    for first in range(0, count, step):
        block = slice(first, first + step)
        sums += _block(reference[block], result[block], targets[block], first)
    return sums


def _block(
    reference: NDArray[np.float32], result: NDArray[np.float32], targets: NDArray[np.int64], first: int
) -> Sums:
    """With z = logits less their greatest and S = Σ exp z, log p = z - log S; so KL(p ‖ q) is
    Σ exp(z_p) (z_p - z_q) / S_p - log S_p + log S_q, and no log of a small number is ever taken."""
    rows = np.arange(len(targets))
    p, q = _shifted(reference, "reference", first), _shifted(result, "result", first)
    target_p, target_q = p[rows, targets], q[rows, targets]
    weights = np.exp(p)
    sum_p = weights.sum(axis=1)
    p -= q
    weights *= p
    crossed = weights.sum(axis=1) / sum_p
    sum_q = np.exp(q, out=q).sum(axis=1)
    log_p, log_q = np.log(sum_p), np.log(sum_q)
    # Rounding may leave a few 1e-17 below zero, where no divergence can be.
    divergence = np.maximum(crossed - log_p + log_q, 0.0)
    return Sums(
        positions=len(targets),
        divergence=float(divergence.sum()),
        agreements=int((reference.argmax(axis=1) == result.argmax(axis=1)).sum()),
        result_loss=float((log_q - target_q).sum()),
        reference_loss=float((log_p - target_p).sum()),
    )


def likeliest(logits: NDArray[np.float32]) -> int:
    """Of one position, shape [vocabulary]; of equals the first. Raises NoDistribution with side "result"."""
    token = int(logits.argmax())
    if not np.isfinite(logits[token]):
        raise NoDistribution("result", 0)
    return token


def log_likelihood(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """Of `targets` (shape [positions]) together, in nats. Raises NoDistribution with side "result"."""
    shifted = _shifted(logits, "result", 0)
    return float((shifted[np.arange(len(targets)), targets] - np.log(np.exp(shifted).sum(axis=1))).sum())


def _shifted(logits: NDArray[np.float32], side: str, first: int) -> NDArray[np.float64]:
    greatest = logits.max(axis=1, keepdims=True)
    if not (finite := np.isfinite(greatest[:, 0])).all():
        raise NoDistribution(side, first + int(finite.argmin()))
    shifted: NDArray[np.float64] = np.subtract(logits, greatest, dtype=np.float64)
    return np.maximum(shifted, FLOOR_NATS, out=shifted)


def _perplexity(loss: float, positions: int) -> float:
    return math.exp(min(loss / positions, LARGEST_EXPONENT))
