"""SIGHUP reads the catalog again; one with a mistake changes nothing (R7)."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import httpx
import pytest

from tests.daemon import Daemon, until
from tests.http.test_serve_stop import Stream

pytestmark = pytest.mark.http


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("reload")
    (folder / "models.toml").write_text('[models.steady]\n[aliases]\n"old" = "steady"\n')
    with Daemon(folder) as made:
        made.pull_fake("steady", end_chance=0, step_ms=10)
        yield made


def reloaded(daemon: Daemon, text: str, event: str) -> dict[str, object]:
    daemon.models_file.write_text(text)
    end = daemon.log_file.stat().st_size
    daemon.signal(signal.SIGHUP)
    return daemon.wait_for_log(event, after=end)


def names(daemon: Daemon) -> set[str]:
    return {model["id"] for model in httpx.get(daemon.base_url + "/v1/models").json()["data"]}


@pytest.mark.parametrize(("text", "line", "column", "part"), [
    ('[aliases]\n"new" = \n', 2, 9, "not TOML"),
    ('[models.steady]\nengin = "llama"\n', 2, 1, "there is no such key"),
    ('[models.steady]\n[[models.steady.variants]]\nengine = "warp"\nprecision = "Q4_0"\n'
     'source = { from = "local", path = "x" }\n', 3, 10, "must be one of"),
    ('[models.steady]\nchat_template = "missing.jinja"\n', 2, 17, "there is no file"),
])
def test_a_mistake_is_told_with_its_place_and_the_old_catalog_serves_on(
    daemon: Daemon, text: str, line: int, column: int, part: str
) -> None:
    stream = Stream(daemon, "old", max_tokens=60)
    told = reloaded(daemon, text, "catalog.kept")
    assert (told["line"], told["column"]) == (line, column)
    assert told["file"] == str(daemon.models_file)
    assert part in str(told["mistake"])
    assert "old" in names(daemon)
    stream.end()
    assert (stream.finish, stream.whole, stream.error) == ("length", True, None)


def test_a_file_that_is_gone_is_a_mistake(daemon: Daemon) -> None:
    reloaded(daemon, '[models.steady]\n[aliases]\n"old" = "steady"\n', "catalog.reloaded")
    daemon.models_file.unlink()
    end = daemon.log_file.stat().st_size
    daemon.signal(signal.SIGHUP)
    assert "there is no such file" in str(daemon.wait_for_log("catalog.kept", after=end)["mistake"])
    assert "old" in names(daemon)


def test_a_good_catalog_is_in_force_at_once_and_streams_go_on(daemon: Daemon) -> None:
    stream = Stream(daemon, "steady", max_tokens=60)
    reloaded(daemon, '[models.steady]\n[aliases]\n"new" = "steady"\n', "catalog.reloaded")
    for _ in until(5):
        if names(daemon) == {"steady", "new"}:
            break
    assert names(daemon) == {"steady", "new"}
    stream.end()
    assert (stream.finish, stream.whole, stream.error) == ("length", True, None)
