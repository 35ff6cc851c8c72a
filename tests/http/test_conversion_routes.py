"""POST /edged/v1/convert and what follows its jobs. The conversions here end at their first stage, with a reason; real
ones are in the tier `real`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.daemon import EDGED, ROOT
from tests.http.conftest import Daemon

pytestmark = pytest.mark.http


@pytest.fixture
def operator(daemon: Daemon) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=daemon.base_url + "/edged/v1", timeout=60) as client:
        yield client


def moments(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: ")]


def test_a_conversion_is_begun_followed_and_found_again(operator: httpx.Client) -> None:
    begun = operator.post("/convert", json={"source": "nothing-of-that-name"})
    assert begun.status_code == 200
    job = begun.json()
    assert (job["kind"], job["reference"]) == ("conversion", "nothing-of-that-name by cpu-int4")
    last = moments(operator.get(f"/jobs/{job['id']}/events"))[-1]
    assert (last["state"], last["error"]["code"]) == ("failed", "model_not_found")
    assert "log" in operator.get(f"/jobs/{job['id']}/log").json()
    streamed = moments(operator.post("/convert", json={"source": "nothing-of-that-name", "stream": True}))
    assert (streamed[-1]["id"], streamed[-1]["state"]) == (job["id"], "failed")
    waited = operator.post("/convert", json={"source": "nothing-of-that-name", "wait": True})
    assert (waited.status_code, waited.json()["error"]["code"]) == (404, "model_not_found")


def test_a_pickled_adapter_ends_the_conversion_with_the_reason(operator: httpx.Client, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.bin").write_bytes(b"\x80\x04.")
    source = tmp_path / "model"
    source.mkdir()
    (source / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    (source / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    last = moments(operator.post(
        "/convert", json={"source": str(source), "adapters": [str(adapter)], "stream": True}))[-1]
    assert last["state"] == "failed"
    assert "safetensors" in last["error"]["message"]


@pytest.mark.parametrize(("body", "param"), [
    ({}, "source"), ({"source": 1}, "source"), ({"source": "x", "adapters": "y"}, "adapters"),
    ({"source": "x", "adapters": ["y"] * 17}, "adapters"), ({"source": "x", "recipes": "y"}, "recipes"),
    ({"source": "x", "accept_loss": "yes"}, "accept_loss"),
])
def test_wrong_fields_are_named(operator: httpx.Client, body: dict[str, Any], param: str) -> None:
    answer = operator.post("/convert", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_an_unknown_recipe_is_the_callers_mistake(operator: httpx.Client) -> None:
    answer = operator.post("/convert", json={"source": "some-model", "recipe": "cpu-int5", "wait": True})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert "cpu-int4" in error["message"]


def test_a_relative_path_is_refused(operator: httpx.Client) -> None:
    answer = operator.post("/convert", json={"source": "./folder"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_model_reference")


def test_the_command_goes_through_the_daemon_and_ends_with_its_error(daemon: Daemon) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*EDGED, *arguments], cwd=ROOT, env=daemon.environment, capture_output=True, text=True,
                              timeout=60, check=False)

    told = run("convert", "nothing-of-that-name", "--recipe", "cpu-int8")
    assert told.returncode == 3
    assert "nothing-of-that-name" in told.stderr
    assert str(daemon.socket) in told.stderr
    left = run("convert", "nothing-of-that-name", "--recipe", "gguf-q8_0", "--detach", "--json")
    identity = json.loads(left.stdout)["id"]
    assert run("jobs", identity).returncode == 3
    assert "nothing-of-that-name by gguf-q8_0" in run("jobs").stdout
    assert "there is no recipe nonsense" in run("convert", "nothing-of-that-name", "--recipe", "nonsense").stderr
