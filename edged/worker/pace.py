"""How many tokens of prefill fit into one step, from the measured rate."""

from __future__ import annotations

#: A piece of prefill may stall the tokens of others, and a cancel, for this long.
PIECE_S = 0.150
MIN_PIECE_TOKENS = 16


class Pace:
    """Moving average of tokens per second over steps with a piece of prefill; begins with what warm-up measured."""

    def __init__(self, tokens_per_s: float) -> None:
        self._rate = tokens_per_s

    def observe(self, tokens: int, seconds: float) -> None:
        if tokens >= MIN_PIECE_TOKENS and seconds > 0:
            self._rate += 0.2 * (tokens / seconds - self._rate)

    @property
    def tokens_per_s(self) -> float:
        return self._rate

    @property
    def piece_tokens(self) -> int:
        return max(MIN_PIECE_TOKENS, int(self._rate * PIECE_S))
