"""In which order examples are seen, and which share a row. Pure: the same seed gives the same order on every machine,
so a training that was killed goes on with the very batch that came next."""

from __future__ import annotations

import random
from collections.abc import Sequence

#: Batches whose examples are sorted by length among themselves. More leaves less padding and shuffles less.
_SORTED_BATCHES = 32


def order(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[int]:
    """Every index of `lengths` (tokens) once, to be cut into batches of `batch_size`: shuffled, then examples of
    similar length brought together, then whole batches shuffled. A last batch that is not full stays the last."""
    drawn = random.Random(f"{seed} {epoch}")
    indices = list(range(len(lengths)))
    drawn.shuffle(indices)
    batches: list[list[int]] = []
    stretch = batch_size * _SORTED_BATCHES
    for start in range(0, len(indices), stretch):
        near = sorted(indices[start:start + stretch], key=lambda index: lengths[index])
        batches += [near[cut:cut + batch_size] for cut in range(0, len(near), batch_size)]
    ragged = batches.pop() if batches and len(batches[-1]) < batch_size else []
    drawn.shuffle(batches)
    return [index for batch in batches for index in batch] + ragged


def packs(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows of indices whose lengths sum to at most `capacity` tokens: best fit, the longest first. An example longer
    than that has a row of its own."""
    rows: list[list[int]] = []
    left: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        fitting = [row for row, room in enumerate(left) if room >= lengths[index]]
        if fitting:
            row = min(fitting, key=lambda row: left[row])
            rows[row].append(index)
            left[row] -= lengths[index]
        else:
            rows.append([index])
            left.append(capacity - lengths[index])
    return rows
