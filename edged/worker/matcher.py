"""One constrained answer as it grows: which tokens may come next, which must, and whether it is complete."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from edged.engines.base import Vocab
from edged.errors import Internal, InvalidRequest

#: In llguidance's message where a limit of work was reached, which is of the grammar's making.
_TOO_COMPLEX = re.compile(r"too (many|complex|large|big)|max is|fuel|limit", re.IGNORECASE)

log = structlog.get_logger("worker")


class Grammar(Protocol):
    """The part of llguidance's LLMatcher that is used. It raises nothing: errors are a state that never ends."""

    def is_error(self) -> bool: ...
    def get_error(self) -> str: ...
    def is_stopped(self) -> bool: ...
    def stop_reason(self) -> str: ...
    def compute_ff_tokens(self) -> list[int]: ...
    def consume_tokens(self, sampled_tokens: list[int]) -> bool: ...
    def validate_tokens(self, tokens: list[int]) -> int: ...
    def unsafe_compute_mask_ptr(self, trg_pointer: int, trg_byte_size: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Free:
    """What comes before the constraint: anything, up to the text `after`. tokens: that text as tokens. optional: the
    answer may end without it. budget: free tokens at most; then `after` is forced."""

    after: bytes
    tokens: list[int]
    optional: bool
    budget: int | None


@dataclass(slots=True)
class Wear:
    """What the matchers of one grammar have done. llguidance keeps in all of them what any has learnt."""

    masks: int = 0


class Matcher:
    """Owned by the loop. grammar None: anything is allowed once the free text is over. encode: text as tokens, which
    joined are that text.

    Any method may raise InvalidRequest where the grammar grew beyond its limits, Internal where llguidance failed: the
    request then ends with that, since nothing would hold its answer to the grammar.
    """

    def __init__(
        self, grammar: Grammar | None, vocab: Vocab, free: Free | None, encode: Callable[[bytes], list[int]], wear: Wear
    ) -> None:
        self._grammar = grammar
        self._vocab = vocab
        self._free = free
        self._encode = encode
        self._wear = wear
        self._free_tokens = 0
        self._tail = b""  # of the free text: what can still be the beginning of `after`
        self._bits = np.empty((vocab.size + 31) // 32, np.uint32)

    @property
    def free(self) -> bool:
        """The constraint has not begun."""
        return self._free is not None

    @property
    def finished(self) -> bool:
        """The answer is complete, and nothing can be added to it."""
        if self._free is not None or self._grammar is None or not self._grammar.is_stopped():
            return False
        self._raise_error()
        return True

    def mask(self) -> NDArray[np.bool_] | None:
        """Shape [vocab]: True where a token may come next; None where any may. The tokens that end an answer are
        allowed where it may end."""
        if self._free is not None:
            return None if self._free.optional else self._all_but_the_end()
        if self._grammar is None:
            return None
        self._wear.masks += 1
        self._grammar.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._raise_error()
        allowed = np.unpackbits(self._bits.view(np.uint8), count=self._vocab.size, bitorder="little")
        return allowed.view(np.bool_)

    def refuses(self, token: int) -> bool:
        """Of free text, which no mask holds: whether the token goes on beyond `after` with what may not come there."""
        if self._free is None or self._grammar is None or not (rest := self._beyond(token)):
            return False
        tokens = self._encode(rest)
        return self._grammar.validate_tokens(tokens) < len(tokens)

    def accept(self, tokens: list[int]) -> None:
        """They come next in the answer, and were allowed."""
        for position, token in enumerate(tokens):
            if self._free is None:
                self._consume(tokens[position:])
                return
            self._free_tokens += 1
            rest = self._beyond(token)
            if rest is None:
                text = self._tail + self._vocab.written(token)
                self._tail = text[max(len(text) - len(self._free.after) + 1, 0):]
            else:
                self._free = None
                self._consume(self._encode(rest))

    def forced(self) -> list[int]:
        """Tokens that must come next, [] where there is a choice. They are still to be accepted."""
        if self._free is not None:
            over = self._free.budget is not None and self._free_tokens >= self._free.budget
            return self._free.tokens if over else []
        if self._grammar is None:
            return []
        tokens = self._grammar.compute_ff_tokens()
        self._raise_error()
        return tokens

    def _beyond(self, token: int) -> bytes | None:
        """Of free text: what the token adds after `after`, less white space; None where that is not complete."""
        assert self._free is not None
        _, found, rest = (self._tail + self._vocab.written(token)).partition(self._free.after)
        return rest.lstrip() if found else None

    def _consume(self, tokens: list[int]) -> None:
        if self._grammar is not None and tokens and not self._grammar.consume_tokens(tokens):
            self._raise_error()

    def _all_but_the_end(self) -> NDArray[np.bool_]:
        allowed = np.ones(self._vocab.size, np.bool_)
        allowed[list(self._vocab.end)] = False
        return allowed

    def _raise_error(self) -> None:
        assert self._grammar is not None
        if not self._grammar.is_error():
            return
        message = self._grammar.get_error()
        log.error("constraint_failed", reason=message[:500], stop_reason=self._grammar.stop_reason())
        if _TOO_COMPLEX.search(message):
            raise InvalidRequest("The format asked for became too complex to be enforced in this answer; simplify it.")
        raise Internal("the format asked for could not be enforced in this answer; it ends here rather than without it")
