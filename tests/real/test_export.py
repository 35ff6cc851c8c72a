"""What `edged export` writes is loaded by the runtimes that it is for, which answer as edged does."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import onnxruntime_genai
import pytest

from edged.hardware.environments import python_of
from edged.types import LoadSpec
from tests.daemon import Daemon
from tests.real.engine_environments import installed_once

pytestmark = pytest.mark.real

TOKENS = 8


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("exporting")) as made:
        yield made


@pytest.fixture(scope="module")
def exported(daemon: Daemon, tiny_positions: LoadSpec) -> dict[str, str]:
    """What the command tells of the tiny model, which edged serves as `onnx`."""
    told = daemon.edged("pull", tiny_positions.path)
    assert told.returncode == 0, told.stderr
    told = daemon.edged("export", "onnx", str(daemon.folder / "exported"), "--json")
    assert told.returncode == 0, told.stderr
    return dict(json.loads(told.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def answers(daemon: Daemon, exported: dict[str, str]) -> dict[str, str]:
    """By question, of edged's own engine for ONNX: those that are plain text. The random model often says bytes that
    are no characters, which each runtime shows in a way of its own."""
    said = {}
    for number in range(80):
        question = f"What is {number}?"
        body = {"model": "onnx", "messages": [{"role": "user", "content": question}], "temperature": 0,
                "max_tokens": TOKENS}
        answer = httpx.post(f"{daemon.base_url}/v1/chat/completions", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        text = str(answer.json()["choices"][0]["message"]["content"])
        if text.isascii() and text.isprintable():
            said[question] = text
    assert len(said) >= 3
    return said


def test_genai_loads_it_and_answers_as_edged_does(exported: dict[str, str], answers: dict[str, str]) -> None:
    model = onnxruntime_genai.Model(exported["folder"])
    tokenizer = onnxruntime_genai.Tokenizer(model)
    assert {question: genai_answer(model, tokenizer, question) for question in answers} == answers


def genai_answer(model: onnxruntime_genai.Model, tokenizer: onnxruntime_genai.Tokenizer, question: str) -> str:
    prompt = tokenizer.apply_chat_template(
        json.dumps([{"role": "user", "content": question}]), add_generation_prompt=True)
    tokens = tokenizer.encode(prompt)
    wanted = onnxruntime_genai.GeneratorParams(model)
    wanted.set_search_options(max_length=len(tokens) + TOKENS, do_sample=False)
    generator = onnxruntime_genai.Generator(model, wanted)
    generator.append_tokens(tokens)
    while not generator.is_done():
        generator.generate_next_token()
    return str(tokenizer.decode(generator.get_sequence(0)[len(tokens):]))


def test_foundry_local_loads_it_and_answers_as_edged_does(
    exported: dict[str, str], answers: dict[str, str], tmp_path: Path,
) -> None:
    home = installed_once("foundry", ["foundry-local-sdk==2.2.1"])
    told = subprocess.run(
        [python_of(home, "foundry"), Path(__file__).with_name("foundry_answers.py"), exported["folder"],
         exported["foundry_id"], tmp_path, str(TOKENS), *answers],
        capture_output=True, text=True, timeout=100, check=False)
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout) == answers
