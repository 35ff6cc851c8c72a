"""One choice of one request, as the scheduler sees it: tokens, how many of them have KV, and where."""

from __future__ import annotations

from dataclasses import dataclass, field

from edged.engines.base import State


@dataclass(slots=True, eq=False)
class Sequence:
    """`tokens` is the prompt and what was generated so far; the loop appends, the scheduler reads. KV in the engine is
    tokens[:length] of `row`, or of `state` while the sequence is stashed. Owned by the scheduler but for `tokens`.

    order: arrival, for FIFO. siblings: the other choices of the request, admitted once this one's prompt has KV.
    prompt_logits: every position of the prompt needs logits, so no prefix may be reused. max_length: tokens at most.
    adapter: what all its KV is computed with.
    """

    request: str
    index: int
    client: str
    tokens: list[int]
    max_length: int
    order: int = 0
    prompt_logits: bool = False
    adapter: str | None = None
    siblings: list[Sequence] = field(default_factory=list)

    prompt_length: int = 0
    length: int = 0
    row: int | None = None
    state: State | None = None
    paused: bool = False
    cached_tokens: int = 0
    admitted: bool = False

    def __post_init__(self) -> None:
        self.prompt_length = len(self.tokens)

    @property
    def pending(self) -> int:
        """Tokens without KV: 1 while decoding, more in prefill and where some were forced. The logits of the last of
        them give the next token."""
        return len(self.tokens) - self.length

    @property
    def answering(self) -> bool:
        """Its prompt has KV: what is pending is its answer's."""
        return self.length >= self.prompt_length

    @property
    def allowance(self) -> int:
        """Tokens of room that admission reserves beyond those there are."""
        return min(ALLOWANCE_TOKENS, max(self.max_length - len(self.tokens), 0))


#: Most clients name no limit; reserving the rest of the context for each would admit one at a time.
ALLOWANCE_TOKENS = 64
