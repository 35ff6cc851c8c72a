from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.cli.exit_codes import ExitCode, NoDaemon, code_of
from edged.cli.output import colours, duration, size, table
from edged.errors import (
    BadReference,
    ConfigError,
    Conflict,
    EdgedError,
    InsufficientMemory,
    InvalidRequest,
    LoadFailed,
    ModelNotFound,
    NotFound,
)

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("count", "text"), [
    (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (98_362_432, "98.4 MB"), (999_600, "1.0 MB"), (253_113_024, "253 MB"),
    (5_027_783_488, "5.0 GB"), (1_234_000_000_000, "1.2 TB"),
])
def test_sizes_read_as_shops_write_them(count: int, text: str) -> None:
    assert size(count) == text


@given(st.integers(0, 10**15))
def test_a_size_is_short_and_right_within_a_twentieth(count: int) -> None:
    number, unit = size(count).split()
    assert len(number) <= 6
    factor = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert abs(float(number) * factor - count) <= max(0.5, 0.05 * count)


@pytest.mark.parametrize(("seconds", "text"), [
    (0.2, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (3725, "1 h 2 min"), (90_000, "1 days"), (200_000, "2 days"),
])
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.lists(st.tuples(st.text("abc é", max_size=40), st.text("xyz", max_size=5)), max_size=6))
def test_a_table_cuts_nothing_and_its_columns_begin_together(rows: list[tuple[str, str]]) -> None:
    lines = table(("FIRST", "SECOND"), rows).split("\n")
    assert len(lines) == len(rows) + 1
    start = lines[0].index("SECOND")
    for line, (first, second) in zip(lines[1:], rows, strict=True):
        assert line[:start].rstrip() == first.rstrip()
        assert line[start:] == second


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert colours(Terminal())
    assert not colours(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not colours(Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colours(Terminal())


@pytest.mark.parametrize(("error", "code"), [
    (ModelNotFound("x"), ExitCode.NOT_FOUND), (NotFound("x"), ExitCode.NOT_FOUND), (NoDaemon("x"), ExitCode.NO_DAEMON),
    (Conflict("x"), ExitCode.REFUSED), (ConfigError("x"), ExitCode.USAGE), (BadReference("x"), ExitCode.USAGE),
    (InvalidRequest("x"), ExitCode.USAGE), (LoadFailed("x"), ExitCode.FAILED),
    (InsufficientMemory("x"), ExitCode.FAILED),
])
def test_each_kind_of_error_has_its_exit_code(error: EdgedError, code: ExitCode) -> None:
    assert code_of(error) is code
