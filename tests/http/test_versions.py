"""Versions as an operator and a client see them: activated, rolled back, tried by share, over HTTP and by command."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from edged.store import Store
from tests.daemon import Daemon as AnyDaemon
from tests.daemon import until
from tests.http.conftest import Daemon
from tests.models import PAST_STORES, past_store
from tests.worker.daemon.rig import install

pytestmark = pytest.mark.http

TIMEOUT_S = 60


def ask(daemon: AnyDaemon, model: str, tokens: int = 12) -> httpx.Response:
    return httpx.post(daemon.base_url + "/v1/completions", timeout=TIMEOUT_S, json={
        "model": model, "prompt": "hello", "max_tokens": tokens, "temperature": 0})


def version(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return response.headers["edged-model"].partition("@")[2]


def text(response: httpx.Response) -> str:
    return str(response.json()["choices"][0]["text"])


def post(daemon: AnyDaemon, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{daemon.base_url}/edged/v1/{path}", json=body, timeout=TIMEOUT_S)


def error_of(response: httpx.Response) -> tuple[int, str, str]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["message"]


@pytest.fixture
def two(daemon: Daemon, request: pytest.FixtureRequest) -> tuple[str, str, str]:
    """A name of this test's own with two versions, the old one active: name, old, new. Their texts differ."""
    name, store = request.node.name.removeprefix("test_")[:40], Store(daemon.home)
    old = install(store, name, step_ms=2)
    new = install(store, name, activate=False, step_ms=2, load_s=0.3, end_chance=1)
    return name, old.version, new.version


def test_a_switch_under_load_drops_nothing(daemon: Daemon, two: tuple[str, str, str]) -> None:
    name, old, new = two
    expected = {each: text(ask(daemon, f"{name}@{each}")) for each in (old, new)}
    assert expected[old] != expected[new]
    with ThreadPoolExecutor(9) as clients, httpx.stream(
        "POST", daemon.base_url + "/v1/completions", timeout=TIMEOUT_S,
        json={"model": name, "prompt": "long", "max_tokens": 600, "stream": True},
    ) as streamed:
        lines = filter(None, streamed.iter_lines())
        next(lines)  # Only what has begun belongs to the old version.
        answers = [clients.submit(ask, daemon, name) for _ in range(60)]
        activated = post(daemon, "activate", model=f"{name}@{new[:4]}")
        assert (activated.status_code, activated.json()["version"]) == (200, new)
        after = [clients.submit(ask, daemon, name) for _ in range(20)]
        for answered in (*answers, *after):
            assert text(answered.result()) == expected[version(answered.result())]
        assert {version(answered.result()) for answered in after} == {new}
        *_, last, done = lines
    assert done == "data: [DONE]"
    # The new version would have ended it after two words.
    assert json.loads(last.removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
    for _ in until(10):
        states = {each["version"]: each["state"] for each in daemon.json("ps") if each["name"] == name}
        if states == {new: "ready"}:
            break
    assert states == {new: "ready"}


def test_a_version_that_does_not_load_is_an_error_and_the_old_one_serves_on(
    daemon: Daemon, two: tuple[str, str, str],
) -> None:
    name, old, _ = two
    bad = install(Store(daemon.home), name, activate=False, refuse="weights.bin is cut short").version
    assert version(ask(daemon, name)) == old
    assert error_of(post(daemon, "activate", model=f"{name}@{bad}")) == (
        500, "load_failed", "weights.bin is cut short")
    told = daemon.edged("activate", f"{name}@{bad[:6]}")
    assert (told.returncode, told.stdout) == (1, "")
    assert "weights.bin is cut short" in told.stderr
    assert version(ask(daemon, name)) == old
    assert daemon.json("show", name)["active"] == old


def test_the_commands_go_forward_and_back_and_show_tells(daemon: Daemon, two: tuple[str, str, str]) -> None:
    name, old, new = two
    assert daemon.json("activate", f"{name}@{new[:5]}")["version"] == new
    assert version(ask(daemon, name)) == new
    shown = daemon.json("show", name)
    assert (shown["active"], [each["by"] for each in shown["history"]]) == (new, ["pull", "activate"])
    assert daemon.edged("rollback", name).stdout == f"{name} is {name}@{old} now, ready on cpu\n"
    assert version(ask(daemon, name)) == old
    told = daemon.edged("show", name).stdout
    assert f"{name}@{old} (active)" in told
    assert told.count("activated ") == 3
    assert told.splitlines()[told.count("\n", 0, told.rindex("activated "))].endswith(f"{old}  by rollback")
    refused = daemon.edged("rollback", name)
    assert refused.returncode == 5
    assert f"no version of {name} that is here was active before {old}" in refused.stderr


def test_the_same_without_a_daemon(tmp_path: Path) -> None:
    idle = AnyDaemon(tmp_path)
    store = Store(idle.home)
    old, new = install(store, "m"), install(store, "m")
    idle.models_file.write_text('[models.m]\n[aliases]\nhelper = "m"\n')
    assert store.active("m") == new.version
    assert idle.json("rollback", "m", )["version"] == old.version
    assert store.active("m") == old.version
    assert idle.edged("activate", f"m@{new.version[:4]}").stdout == f"m is m@{new.version} now\n"
    assert idle.edged("activate", f"helper@{old.version[:4]}", EDGED_MODELS=str(idle.models_file)).returncode == 3
    assert idle.edged("rollback", "helper", EDGED_MODELS=str(idle.models_file)).returncode == 0
    assert store.active("m") == old.version
    for said, code in [("m", 2), ("m@0000", 3), ("m@", 2), ("n@0000", 3)]:
        told = idle.edged("activate", said)
        assert (told.returncode, told.stdout) == (code, ""), said
    assert old.version in idle.edged("activate", "m@0000").stderr
    assert idle.edged("rollout", "m").returncode == 4


def test_the_first_digits_of_a_version_are_its_name_in_requests(daemon: Daemon, two: tuple[str, str, str]) -> None:
    name, old, new = two
    for digits in (4, 7, 12):
        assert version(ask(daemon, f"{name}@{new[:digits]}")) == new
    assert httpx.get(f"{daemon.base_url}/edged/v1/models/{name}@{old[:4]}").json()["version"] == old
    status, code, message = error_of(ask(daemon, f"{name}@0000"))
    assert (status, code) == (404, "model_not_found")
    assert f"{old} (active)" in message
    assert new in message
    path = Store(daemon.home).layout.manifest(name, old)
    twin = path.with_name(f"{old[:8]}{'0' if old[8] != '0' else '1'}{old[9:]}.json")
    twin.write_bytes(path.read_bytes())
    try:
        status, code, message = error_of(ask(daemon, f"{name}@{old[:6]}"))
    finally:
        twin.unlink()
    assert (status, code) == (400, "invalid_model_reference")
    assert old in message
    assert twin.stem in message


def test_all_prompts_of_a_call_are_answered_by_one_version(start: Callable[..., Daemon]) -> None:
    own = start()
    store = Store(own.home)
    install(store, "m")
    candidate = install(store, "m", activate=False, end_chance=1)
    own.models_file.write_text(f'[models.m]\ncandidate = "{candidate.version}"\nshare = 0.5\n')
    assert post(own, "reload").json() == {"changed": ["gpt-4o-mini", "m", "tiny"]}
    seen = set()
    for _ in range(4):
        answered = httpx.post(own.base_url + "/v1/completions", timeout=TIMEOUT_S, json={
            "model": "m", "prompt": ["hello"] * 3, "max_tokens": 12, "temperature": 0})
        assert len({choice["text"] for choice in answered.json()["choices"]}) == 1
        seen.add(version(answered))
    assert len(seen) == 2


def test_a_rollout_by_share_from_the_catalog_to_its_end(start: Callable[..., Daemon]) -> None:
    own = start()
    store = Store(own.home)
    active = install(store, "m").version
    bad = install(store, "m", activate=False, refuse="weights.bin is cut short").version
    good = install(store, "m", activate=False, end_chance=1).version
    assert own.edged("rollout", "m").returncode == 3
    own.models_file.write_text(f'[models.m]\ncandidate = "{good[:6]}"\nshare = 0.25\n')
    assert post(own, "reload").status_code == 200
    assert Counter(version(ask(own, "m")) for _ in range(16)) == {active: 12, good: 4}
    status = own.json("rollout", "m")
    assert (status["verdict"], status["share"], status["candidate"]["requests"]) == ("trying", 0.25, 4)
    table = own.edged("rollout", "m").stdout
    assert "25%" in table
    assert "undecided: " in table
    assert "25% (candidate)" in own.edged("ps").stdout
    metrics = httpx.get(own.base_url + "/metrics").text
    assert f'edged_rollout_requests_total{{model="m",version="{good}"}} 4.0' in metrics
    assert f'edged_rollout_share{{model="m",version="{good}"}} 0.25' in metrics
    assert f'edged_rollout_time_to_first_token_seconds_count{{model="m",version="{active}"}}' in metrics
    own.models_file.write_text(f'[models.m]\ncandidate = "{bad}"\nshare = 0.25\n')
    assert post(own, "reload").status_code == 200
    assert Counter(version(ask(own, "m")) for _ in range(8)) == {active: 8}
    told = own.edged("rollout", "m").stdout
    assert "worse: it cannot serve: weights.bin is cut short" in told
    assert "edged rollout m --retry" in told
    own.stop()
    own.start()
    assert own.json("rollout", "m")["verdict"] == "worse"
    assert own.json("rollout", "m", "--retry")["verdict"] == "trying"


@pytest.mark.parametrize("schema", PAST_STORES)
def test_a_store_of_an_older_edged_is_served(schema: int, tmp_path: Path) -> None:
    past_store(schema, tmp_path / "home")
    with AnyDaemon(tmp_path) as daemon:
        assert version(ask(daemon, "tiny")) == "ff0d29d32918"
        assert version(ask(daemon, "tiny@ba65")) == "ba65d8c43ede"
        assert version(ask(daemon, "org/repo:Q4_K_M")) == "ba65d8c43ede"
        assert daemon.json("activate", "tiny@ba65")["version"] == "ba65d8c43ede"
        assert [each["by"] for each in daemon.json("show", "tiny")["history"]] == ["unknown", "activate"]
