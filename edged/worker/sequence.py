"""One choice of one request, as the scheduler sees it: tokens, how many of them have KV, and where."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from edged.engines.base import State
from edged.worker.worth import Source

if TYPE_CHECKING:
    from edged.worker.speculation import Guesses


@dataclass(slots=True, eq=False)
class Sequence:
    """`tokens` is the prompt and what was generated so far; the loop appends, the scheduler reads. KV in the engine is
    tokens[:length] of `row`, or of `state` while the sequence is stashed. Owned by the scheduler but for `tokens`.

    order: arrival, for FIFO. siblings: the other choices of the request, admitted once this one's prompt has KV.
    prompt_logits: every position of the prompt needs logits, so no prefix may be reused. max_length: tokens at most.
    adapter: what all its KV is computed with; scope: among whom it is shared. uses: requests that
    its prompt counts as. leader: a running sequence that computes
    more of this one's prompt, which waits for the first `awaited` tokens of it. cuts: lengths at which a piece of its
    prompt ends, because others go on from there or the engine's KV does not go back to there. draft: what may come
    after `tokens`, to be verified in the next tick; drafted: tokens of one whose KV follows tokens[:length] in the row
    and that nobody has accepted yet. guesses: what `Speculation`, their owner, knows of it.
    """

    request: str
    index: int
    client: str
    tokens: list[int]
    max_length: int
    order: int = 0
    prompt_logits: bool = False
    adapter: str | None = None
    scope: str = ""
    uses: int = 1
    siblings: list[Sequence] = field(default_factory=list)

    prompt_length: int = 0
    length: int = 0
    row: int | None = None
    state: State | None = None
    paused: bool = False
    cached_tokens: int = 0
    cached_from: Literal["rows", Source] = "rows"
    admitted: bool = False
    leader: Sequence | None = None
    awaited: int = 0
    cuts: set[int] = field(default_factory=set)
    draft: list[int] = field(default_factory=list)
    drafted: int = 0
    guesses: Guesses | None = None

    def __post_init__(self) -> None:
        self.prompt_length = len(self.tokens)

    @property
    def pending(self) -> int:
        """Tokens without KV: 1 while decoding, more in prefill and where some were forced. The logits of the last of
        them give the next token."""
        return len(self.tokens) - self.length

    @property
    def next_cut(self) -> int:
        """Tokens of its next piece at most, so that it ends where the next cut is."""
        return min((cut - self.length for cut in self.cuts if cut > self.length), default=self.pending)

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
