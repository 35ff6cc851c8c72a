"""What a search and its workers tell each other: JSON, one object a line, over a worker's standard input and output."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from training.search.found import Setting


class Begin(Struct, frozen=True, tag="begin"):
    """The first line to a worker. run: a run folder of its own. text: the recipe as the search read it, whatever its
    file says meanwhile."""

    run: str
    recipe: str
    text: str


class Try(Struct, frozen=True, tag="try"):
    """A trial to make, in a folder of its own that is there and empty."""

    number: int
    settings: dict[str, Setting]
    folder: str


class Answer(Struct, frozen=True, tag="answer"):
    """To an Evaluated: go on, or end the trial."""

    go_on: bool


class Evaluated(Struct, frozen=True, tag="evaluated"):
    """The k-th validation loss of the trial, counted from 1; the worker waits for the Answer."""

    evaluation: int
    value: float


class Live(Struct, frozen=True, tag="live"):
    """Figures of the trial that runs, and how much of it is done."""

    fraction: float | None
    figures: dict[str, float]


class Ended(Struct, frozen=True, tag="ended"):
    """value: of the objective. figures: others, to be kept."""

    value: float
    figures: dict[str, Any] = {}


class Pruned(Struct, frozen=True, tag="pruned"):
    pass


class Failed(Struct, frozen=True, tag="failed"):
    reason: str


class Died(Struct, frozen=True, tag="died"):
    """What the pool says of a worker that ended without being asked to."""

    reason: str


ToWorker = Begin | Try | Answer
FromWorker = Evaluated | Live | Ended | Pruned | Failed | Died
