"""What `edged pull`, `list`, `rm` and their like ask of a running daemon."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.http.conftest import Daemon
from tests.models import fake_folder

pytestmark = pytest.mark.http


@pytest.fixture
def operator(daemon: Daemon) -> Any:
    with httpx.Client(base_url=daemon.base_url + "/edged/v1", timeout=60) as client:
        yield client


def moments(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: ")]


def test_a_pulled_model_serves_and_can_be_removed(daemon: Daemon, operator: httpx.Client, tmp_path: Path) -> None:
    folder = fake_folder(tmp_path / "brought", end_chance=7)
    answer = operator.post("/pull", json={"model": str(folder), "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *before, last = moments(answer)
    assert last["state"] == "done"
    assert all(moment["state"] == "running" for moment in before)
    assert last["id"] in [job["id"] for job in operator.get("/jobs").json()["jobs"]]
    assert operator.get(f"/jobs/{last['id']}").json() == last
    assert moments(operator.get(f"/jobs/{last['id']}/events")) == [last]
    name = last["manifest"]["name"]
    hello: list[Any] = [{"role": "user", "content": "x"}]
    assert daemon.openai().chat.completions.create(model=name, messages=hello, max_tokens=2).model == name
    assert name in [model["name"] for model in operator.get("/models").json()["models"]]
    assert operator.post("/unload", json={"model": name}).json()["state"] == "absent"
    assert operator.delete(f"/models/{name}").json() == {"removed": name}
    assert operator.get(f"/models/{name}").status_code == 404


def test_a_pull_without_stream_waits_for_the_end(operator: httpx.Client, tmp_path: Path) -> None:
    answer = operator.post("/pull", json={"model": str(fake_folder(tmp_path / "waited", rows=3))})
    assert (answer.status_code, answer.json()["state"]) == (200, "done")


def test_a_pull_of_nothing_is_an_error_with_its_status(operator: httpx.Client) -> None:
    answer = operator.post("/pull", json={"model": "nothing-of-that-name"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    last = moments(operator.post("/pull", json={"model": "nothing-of-that-name", "stream": True}))[-1]
    assert (last["state"], last["error"]["code"]) == ("failed", "model_not_found")


def test_an_unknown_job_is_404(operator: httpx.Client) -> None:
    for answer in (operator.get("/jobs/pull-999"), operator.get("/jobs/pull-999/events"),
                   operator.post("/jobs/pull-999/cancel")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_an_alias_is_not_removed_for_what_it_stands_for(operator: httpx.Client) -> None:
    answer = operator.delete("/models/gpt-4o-mini")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "conflict")
    assert operator.get("/models/tiny").status_code == 200


def test_bodies_of_the_operators_routes_are_checked_too(operator: httpx.Client) -> None:
    for route, body, param in [("/load", {}, "model"), ("/load", {"model": "tiny", "pinned": True}, "pinned"),
                               ("/unload", {"model": "tiny", "force": "yes"}, "force"),
                               ("/pull", {"model": ""}, "model"),
                               ("/load", {"model": "tiny", "keep_alive": "soon"}, "keep_alive")]:
        answer = operator.post(route, json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
