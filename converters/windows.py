"""Which tokens of a text are looked at, and in which order: pure.

A gate has a limit of tokens and of time, and may stop at any window. So every beginning of the sequence of windows
covers the whole text evenly: passages come in the order of bit reversal (van der Corput), one window of each, then the
next window of each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

#: Positions of one window, at most and at least.
LONGEST = 512
SHORTEST = 128
#: What is left of a passage is not worth a window with fewer positions than this.
CRUMB = 16


def spread(count: int) -> list[int]:
    """0 … count-1, in an order of which every beginning is spread evenly."""
    bits = max(count - 1, 1).bit_length()
    return sorted(range(count), key=lambda index: int(f"{index:0{bits}b}"[::-1], 2))


def windows(
    count: int, encode: Callable[[int], list[int]], *, bos: int | None, longest: int, positions: int
) -> Iterator[list[int]]:
    """Windows of `count` passages with `positions` in all, where a window of n tokens has n-1: each but the last is
    followed by a token that is known. encode: tokens of one passage, asked for once and only if it is reached. bos: put
    before a window that goes on with a passage which began with it. longest: positions that the models' contexts
    hold."""
    if count == 0:
        return
    length = min(max(positions // count, SHORTEST), LONGEST, longest)
    waiting: deque[tuple[int, list[int] | None]] = deque((index, None) for index in spread(count))
    left = positions
    while waiting and left > 0:
        index, known = waiting.popleft()
        tokens = encode(index) if known is None else known
        window, rest = tokens[:min(length, left) + 1], tokens[length:]
        if len(window) < 2:
            continue
        left -= len(window) - 1
        yield window
        if len(rest) > CRUMB:
            starts = tokens[0] == bos and bos is not None
            waiting.append((index, [tokens[0], *rest] if starts else rest))
