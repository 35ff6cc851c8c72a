"""What is there twice, or on both sides of a split. Pure.

Test goes before validation and validation before train: what is held out stays whole, and the training side gives way.
Within one split the first one stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from training.data.near import Near, words_of
from training.data.read import Read
from training.examples import Example
from training.split import SplitName

#: What gives way to what.
ORDER: tuple[SplitName, ...] = ("test", "validation", "train")


@dataclass(slots=True)
class Kept:
    """dropped: counts by reason: `duplicate` (prompt and answer), `contradiction` (the same prompt with another answer
    behind the first), `near_duplicate`, and of leaks `in_test`, `in_validation`, `near_test`, `near_validation`.
    examples: of dropped ones, for people, the first of each reason: (reason, place, place of the one that stayed)."""

    splits: dict[SplitName, list[Read]] = field(default_factory=lambda: {name: [] for name in ORDER})
    dropped: dict[str, int] = field(default_factory=dict)
    examples: list[tuple[str, str, str]] = field(default_factory=list)


def without_doubles(splits: Mapping[SplitName, list[Read]], near_from: float | None) -> Kept:
    """near_from: similarity from which two prompts count as one; None: equal ones only."""
    rows = [(name, each) for name in ORDER for each in splits.get(name, ())]
    near = Near((words_of(each.example) for _, each in rows), near_from) if near_from is not None else None
    kept, first = Kept(), _First()
    for number, (name, each) in enumerate(rows):
        found = first.against(name, each.example)
        if found is None and near is not None and (like := near.like(number)) is not None \
                and rows[like][1].example.id != each.example.id:
            other = rows[like][0]
            found = ("near_duplicate" if other == name else f"near_{other}", like)
        if found is None:
            kept.splits[name].append(each)
            first.add(name, each.example, number)
            if near is not None:
                near.add(number)
        else:
            reason, of = found
            if reason not in kept.dropped:
                kept.examples.append((reason, str(each.place), str(rows[of][1].place)))
            kept.dropped[reason] = kept.dropped.get(reason, 0) + 1
    return kept


def near_leaks(splits: Mapping[SplitName, list[Read]], threshold: float) -> dict[SplitName, int]:
    """How many training prompts are that similar to one that is held out, by the split that holds it."""
    held: list[SplitName] = [name for name in ORDER if name != "train" for _ in splits[name]]
    rows = [each for name in ORDER for each in splits[name]]
    near = Near((words_of(each.example) for each in rows), threshold)
    for number in range(len(held)):
        near.add(number)
    found: dict[SplitName, int] = {}
    for number in range(len(held), len(rows)):
        if (like := near.like(number)) is not None:
            found[held[like]] = found.get(held[like], 0) + 1
    return found


class _First:
    """The first row of each prompt, and of each prompt with its answers."""

    def __init__(self) -> None:
        self._prompts: dict[str, tuple[SplitName, int]] = {}
        self._whole: dict[tuple[object, ...], int] = {}

    def add(self, name: SplitName, example: Example, number: int) -> None:
        self._prompts.setdefault(example.id, (name, number))
        self._whole.setdefault(_whole(example), number)

    def against(self, name: SplitName, example: Example) -> tuple[str, int] | None:
        """Why it cannot stay, and because of which row. A prompt may have several preferences."""
        if (there := self._prompts.get(example.id)) is None:
            return None
        split, number = there
        if split != name:
            return f"in_{split}", number
        if (same := self._whole.get(_whole(example))) is not None:
            return "duplicate", same
        return None if example.rejected is not None else ("contradiction", number)


def _whole(example: Example) -> tuple[object, ...]:
    """Messages hold objects, which are no keys."""
    return (example.id, repr(example.answer), repr(example.rejected))
