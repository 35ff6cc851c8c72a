"""How a pull or conversion looks while it runs: a bar in a terminal, plain lines elsewhere, JSON for scripts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from edged.cli.output import answer_json, colours, duration, say, size
from edged.store.entries import JobLine, JobProgress

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

#: Without a terminal, a line at least this far apart.
LINE_INTERVAL_S = 5.0


class Show(Protocol):
    """A context manager that is told every moment of a job."""

    def __enter__(self) -> Show: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None: ...
    def __call__(self, moment: JobProgress) -> None: ...


def show_for(*, json: bool, stages: bool = False) -> Show:
    """stages: the job has stages with shares of them done, instead of bytes with a rate."""
    if json:
        return JsonLines()
    if not sys.stderr.isatty():
        return Lines()
    return StageBar() if stages else Bar()


class JsonLines:
    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def __call__(self, moment: JobProgress) -> None:
        answer_json(JobLine(progress=moment))


class Lines:
    """A line for each new stage or file, and now and then one with how far it is."""

    def __init__(self, interval_s: float = LINE_INTERVAL_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s, self._clock = interval_s, clock
        self._stage: tuple[str, str | None] = ("", None)
        self._told_s = self._began_s = clock()
        self._first_bytes: int | None = None

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def __call__(self, moment: JobProgress) -> None:
        now = self._clock()
        if moment.note is not None:
            say(f"note: {moment.note}")
        if self._first_bytes is None and moment.total_bytes is not None:
            self._first_bytes, self._began_s = moment.done_bytes, now
        stage = (moment.stage, moment.file)
        if stage != self._stage or now - self._told_s >= self._interval_s:
            self._stage, self._told_s = stage, now
            say(self._line(moment, now))

    def _line(self, moment: JobProgress, now: float) -> str:
        line = f"{moment.stage} {moment.file or ''}".rstrip()
        if moment.fraction:
            return f"{line}: {moment.fraction:.0%}"
        if moment.total_bytes is None:
            return line
        line += f": {size(moment.done_bytes)} of {size(moment.total_bytes)}"
        rate = (moment.done_bytes - (self._first_bytes or 0)) / max(now - self._began_s, 0.001)
        if rate > 0 and moment.done_bytes < moment.total_bytes:
            line += f", {size(round(rate))}/s, {duration((moment.total_bytes - moment.done_bytes) / rate)} left"
        return line


class _Terminal:
    """What the bars of a terminal have in common. description: of the task before its first moment."""

    def __init__(self, description: str, *columns: ProgressColumn) -> None:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True, no_color=not colours(sys.stderr))
        self._progress: Progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task(description, total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def _show(self, moment: JobProgress, file: str, *, completed: float, total: float | None) -> None:
        if moment.note is not None:
            self._progress.console.print(f"note: {moment.note}", markup=False, highlight=False)
        self._progress.update(
            self._task, description=f"{moment.stage} {file}".rstrip().replace("[", "\\["), completed=completed,
            total=total)


class Bar(_Terminal):
    """Bytes of the whole pull, their rate and the time left."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
        from rich.progress import TransferSpeedColumn as SpeedColumn

        super().__init__("resolving", TextColumn("{task.description}"), BarColumn(), DownloadColumn(), SpeedColumn(),
                         TimeRemainingColumn())

    def __call__(self, moment: JobProgress) -> None:
        self._show(moment, (moment.file or "").rpartition("/")[2], completed=moment.done_bytes,
                   total=moment.total_bytes)


class StageBar(_Terminal):
    """The stage, how much of it is done, and the time since the job began."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

        super().__init__("starting", TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
                         TimeElapsedColumn())

    def __call__(self, moment: JobProgress) -> None:
        fraction = moment.fraction
        if fraction is None and moment.total_bytes:
            fraction = moment.done_bytes / moment.total_bytes
        self._show(moment, moment.file or "", completed=fraction or 0.0, total=1.0 if fraction is not None else None)
