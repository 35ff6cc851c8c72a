"""Programs that were written for OpenAI, unchanged: each does what its README shows first."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.http.conftest import Daemon
from tests.http.python_clients import SCRIPTS, environment

# The first run of all makes the environment.
pytestmark = [pytest.mark.http, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def programs() -> Path:
    return environment()


@pytest.fixture
def run(programs: Path, daemon: Daemon, tmp_path: Path) -> Callable[..., str]:
    """Runs a program of the environment with a home of its own; gives what it prints."""

    def start(program: str, *arguments: str, **more: str) -> str:
        foreign = ("EDGED_", "OPENAI_", "PYTHON")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        shown = subprocess.run(
            [str(programs / program), *arguments], capture_output=True, text=True, timeout=100, check=False,
            cwd=tmp_path, env={**kept, "HOME": str(tmp_path), "LITELLM_LOCAL_MODEL_COST_MAP": "True", **more})
        assert shown.returncode == 0, shown.stderr[-3000:]
        return shown.stdout

    return start


@pytest.fixture
def told(run: Callable[..., str], daemon: Daemon) -> Callable[[str], dict[str, Any]]:
    def of(script: str) -> dict[str, Any]:
        last = run("python", str(SCRIPTS / script), daemon.base_url + "/v1", "tiny").splitlines()[-1]
        found: dict[str, Any] = json.loads(last)
        return found

    return of


def test_langchain(told: Callable[[str], dict[str, Any]]) -> None:
    seen = told("use_langchain.py")
    assert seen["text"] == seen["streamed"] == "J'adore la programmation."
    assert seen["usage"]["total_tokens"] == seen["usage"]["input_tokens"] + seen["usage"]["output_tokens"]
    assert seen["calls"] == seen["calls streamed"] == [["GetWeather", {"location": "Los Angeles, CA"}]]
    assert seen["joke"] == {"setup": "Why?", "punchline": "Because."}
    assert seen["logprobs"] == len("J'adore la programmation.")


def test_instructor(told: Callable[[str], dict[str, Any]]) -> None:
    seen = told("use_instructor.py")
    john = {"name": "John", "age": 25}
    assert (seen["by tools"], seen["by schema"], seen["partial"]) == (john, john, john)
    assert seen["retried"] != "John"
    assert seen["pieces"] > 1


def test_litellm(told: Callable[[str], dict[str, Any]]) -> None:
    seen = told("use_litellm.py")
    assert seen["text"] == seen["streamed"] == seen["later"] == "Hello, how are you?"
    assert seen["usage"] > 20
    assert seen["vector"] > 1
    assert (seen["over the context"], seen["unknown"]) == ("400", "404")


def test_pydantic_ai(told: Callable[[str], dict[str, Any]]) -> None:
    seen = told("use_pydantic_ai.py")
    assert seen["text"] == seen["streamed"] == "From Kernighan."
    assert seen["typed"] == {"support_advice": "Your balance is 123.45.", "block_card": False, "risk": 1}
    assert seen["asked"] == [[7, True]]
    assert seen["tokens"] > 5


def test_llm(run: Callable[..., str], daemon: Daemon, tmp_path: Path) -> None:
    """With the configuration that its documentation gives for OpenAI-compatible servers."""
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: edged\n  model_name: tiny\n  api_base: {daemon.base_url}/v1\n  api_key_name: edged\n"
        "  supports_schema: true\n  supports_tools: true\n")
    user = {"LLM_USER_PATH": str(tmp_path)}
    run("llm", "keys", "set", "edged", "--value", "none", **user)
    asked = ["-m", "edged", "say: Gulliver, Scoop, Finn."]
    assert run("llm", *asked, **user).strip() == "Gulliver, Scoop, Finn."
    assert run("llm", *asked, "--no-stream", **user).strip() == "Gulliver, Scoop, Finn."
    dog = run("llm", "-m", "edged", "--schema", "name, age int", 'say: {"name": "Rex", "age": 3}', **user)
    assert json.loads(dog) == {"name": "Rex", "age": 3}
    assert "Gulliver" in run("llm", "logs", "-n", "3", **user)
