from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from edged import logs

pytestmark = pytest.mark.unit


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def entries(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_auto_is_for_people_in_a_terminal_and_json_elsewhere() -> None:
    assert logs.chosen_format("auto", Terminal()) == "console"
    assert logs.chosen_format("auto", io.StringIO()) == "json"
    assert logs.chosen_format("json", Terminal()) == "json"


def test_entries_are_json_with_the_request_id_that_is_bound() -> None:
    out = io.StringIO()
    logs.configure("json", "info", stream=out)
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        structlog.get_logger("x").info("request", status=200)
    structlog.get_logger("x").debug("too.quiet")
    [entry] = entries(out)
    assert (entry["event"], entry["level"], entry["request_id"], entry["status"]) == ("request", "info", "r1", 200)


@pytest.mark.parametrize("key", sorted(logs.TEXT_KEYS))
def test_texts_are_left_out_unless_asked_for(key: str) -> None:
    out = io.StringIO()
    logs.configure("json", "info", stream=out)
    structlog.get_logger("x").info("said", **{key: "a secret"})
    assert "a secret" not in out.getvalue()
    out = io.StringIO()
    logs.configure("json", "info", log_prompts=True, stream=out)
    structlog.get_logger("x").info("said", **{key: "a secret"})
    assert entries(out)[0][key] == "a secret"


def test_the_standard_librarys_loggers_come_the_same_way() -> None:
    out = io.StringIO()
    logs.configure("json", "info", stream=out)
    logging.getLogger("uvicorn.error").warning("odd %s", "thing")
    logging.getLogger("uvicorn.error").info("chatter")
    [entry] = entries(out)
    assert (entry["event"], entry["level"]) == ("odd thing", "warning")


def test_an_exception_is_one_line_of_json() -> None:
    out = io.StringIO()
    logs.configure("json", "info", stream=out)
    try:
        raise ValueError("why")
    except ValueError as error:
        structlog.get_logger("x").error("failed", exc_info=error)
    assert "ValueError: why" in entries(out)[0]["exception"]


def test_for_people_there_are_colours_in_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for out, coloured in ((Terminal(), True), (io.StringIO(), False)):
        logs.configure("console", "info", stream=out)
        structlog.get_logger("x").info("hello", name="value")
        assert "hello" in out.getvalue()
        assert ("\x1b[" in out.getvalue()) is coloured
