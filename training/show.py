"""How a training looks while it runs: bars and a live curve of the loss in a terminal, plain lines elsewhere, JSON for
scripts. Progress goes to standard error, what came out to standard output."""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol, Self

import msgspec
from msgspec import Struct

from edged.errors import EdgedError
from training.run import Moment, Tell

if TYPE_CHECKING:
    from rich.progress import TaskID

#: Without a terminal, a line at least this far apart.
LINE_INTERVAL_S = 5.0
#: In a terminal, not more often.
_REDRAW_S = 0.1
_CURVE_WIDTH = 16
_KEPT = 2000
_BLOCKS = "▁▂▃▄▅▆▇█"
#: A loss that is further away is drawn here.
_MOST = 1e9
#: The figure that has a curve.
_CURVE = "loss"


class Told(Protocol):
    """What a command ends with: a struct that can also say it in words."""

    def words(self) -> str: ...


class Failure(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The fields of `edged.errors.EdgedError`."""

    status: int
    type: str
    message: str
    code: str | None = None
    retry: bool = True


class Line(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of --json: one of progress, result and error; the last line has one of the latter two."""

    progress: Moment | None = None
    result: Any = None
    error: Failure | None = None


class Show(Protocol):
    """A context manager that is told every moment."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...
    def __call__(self, moment: Moment) -> None: ...
    def say(self, text: str) -> None: ...
    def result(self, told: Told) -> None: ...
    def failed(self, error: EdgedError) -> None: ...


def show_for(*, json: bool) -> Show:
    if json:
        return JsonLines()
    return Bars() if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else Lines()


def of_member(name: str, tell: Tell) -> Tell:
    """Its moments are told as stages `name/stage`."""
    return lambda moment: tell(msgspec.structs.replace(moment, stage=f"{name}/{moment.stage}"))


class JsonLines:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def __call__(self, moment: Moment) -> None:
        self._line(Line(progress=moment))

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def result(self, told: Told) -> None:
        self._line(Line(result=told))

    def failed(self, error: EdgedError) -> None:
        self._line(Line(error=Failure(status=error.status, type=error.type, message=str(error), code=error.code,
                                      retry=error.retry)))

    @staticmethod
    def _line(line: Line) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
        sys.stdout.buffer.flush()


class Lines:
    """A line for each new stage and work, for each note, and now and then one with how far it is."""

    def __init__(self, interval_s: float = LINE_INTERVAL_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s, self._clock = interval_s, clock
        self._doing: tuple[str, str | None] = ("", None)
        self._told_s = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def __call__(self, moment: Moment) -> None:
        if moment.note is not None:
            self.say(f"{moment.stage}: note: {moment.note}")
        now_s, doing = self._clock(), (moment.stage, moment.what)
        if doing != self._doing or now_s - self._told_s >= self._interval_s:
            if moment.note is not None and moment.what is None and moment.fraction is None:
                return
            self._doing, self._told_s = doing, now_s
            self.say(line_of(moment))

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def result(self, told: Told) -> None:
        print(told.words(), flush=True)

    def failed(self, error: EdgedError) -> None:
        self.say(f"edged: {error}")


class Bars(Lines):
    """A bar for each stage, which stays when it has ended, with its live figures and the curve of its loss."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
        from rich.table import Column

        super().__init__()
        # Figures are cut where the terminal is narrow, the rest is not.
        fixed = Column(no_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}", table_column=fixed),
            BarColumn(bar_width=12, table_column=Column(min_width=12)), TaskProgressColumn(table_column=fixed),
            TimeElapsedColumn(table_column=fixed),
            TextColumn("{task.fields[figures]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            # Without a thread: stages are forked from this process.
            console=Console(stderr=True, no_color=bool(os.environ.get("NO_COLOR"))), auto_refresh=False, expand=True)
        self._drawn_s = float("-inf")
        self._tasks: dict[str, TaskID] = {}
        self._losses: dict[str, deque[float]] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def __call__(self, moment: Moment) -> None:
        if moment.note is not None:
            self._progress.console.print(f"{moment.stage}: note: {moment.note}", markup=False, highlight=False)
        if (task := self._tasks.get(moment.stage)) is None:
            task = self._tasks[moment.stage] = self._progress.add_task(_escaped(moment.stage), total=None, figures="")
        losses = self._losses.setdefault(moment.stage, deque(maxlen=_KEPT))
        if (loss := moment.figures.get(_CURVE)) is not None:
            losses.append(loss)
        changed: dict[str, Any] = {}
        if moment.what is not None:
            changed["description"] = _escaped(f"{moment.stage} {moment.what}")
        if moment.fraction is not None:
            changed |= {"total": 1.0, "completed": moment.fraction}
        if moment.figures:
            changed["figures"] = _escaped(" ".join(filter(None, (curve(losses), figures_in_words(moment.figures)))))
        self._progress.update(task, **changed)
        if (now_s := self._clock()) - self._drawn_s >= _REDRAW_S or moment.fraction == 1.0:
            self._drawn_s = now_s
            self._progress.refresh()


def line_of(moment: Moment) -> str:
    said = " ".join(filter(None, (moment.stage, moment.what)))
    if moment.fraction:
        said += f": {moment.fraction:.0%}"
    return f"{said}, {figures_in_words(moment.figures)}" if moment.figures else said


def figures_in_words(figures: dict[str, float]) -> str:
    named = {name.replace("_per_second", "/s").replace("_", " "): value for name, value in figures.items()}
    return ", ".join(f"{name} {value:.4g}" if abs(value) < 10_000 else f"{name} {value:.0f}"
                     for name, value in named.items())


def curve(values: Sequence[float] | deque[float], width: int = _CURVE_WIDTH) -> str:
    """Means of equal parts of the values, from the least (▁) to the greatest (█); empty below two of them. What is no
    number is left out."""
    known = [min(max(value, -_MOST), _MOST) for value in values if not math.isnan(value)]
    if len(known) < 2:
        return ""
    columns = min(width, len(known))
    edges = [round(number * len(known) / columns) for number in range(columns + 1)]
    means = [sum(known[begin:end]) / (end - begin) for begin, end in pairwise(edges)]
    least, most = min(means), max(means)
    if most == least:
        return _BLOCKS[0] * columns
    return "".join(_BLOCKS[round((mean - least) / (most - least) * (len(_BLOCKS) - 1))] for mean in means)


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")
