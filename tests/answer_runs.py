"""Runs whose data is there, for tests of stage answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.chat_server import ChatServer
from training.answers.answered import Answered
from training.answers.stage import ANSWERS
from training.examples import Example, Message, identity, read_examples, write_examples
from training.recipe import load_recipe
from training.run import Moment, Run


def prompts(count: int, before: str = "prompt", tools: tuple[dict[str, Any], ...] = ()) -> list[Example]:
    asked = [(Message("user", f"{before} {number}"),) for number in range(count)]
    return [Example(id=identity(prompt), prompt=prompt, tools=tools) for prompt in asked]


def run_of(
    folder: Path, answers: str, count: int = 4, data: str = "", tools: tuple[dict[str, Any], ...] = (),
) -> Run:
    """One whose data is there. data: more of that table. tools: of its prompts."""
    path = folder / "home.toml"
    path.write_text(f'name = "home"\nbase = "./base"\ndata = {{train = ["a.jsonl"]{data}}}\n'
                    f"[distil.answers]\n{answers}\n")
    recipe, file = load_recipe(path)
    run = Run(folder / "run", recipe, file)
    run.folder.mkdir(exist_ok=True)
    run.begin("data")
    for split, examples in (
        ("train", prompts(count, tools=tools)), ("validation", prompts(1, "held out")), ("test", []),
    ):
        write_examples(run.path("data") / f"{split}.jsonl", examples)
    run.mark("data", "key", 0.0, {})
    return run


def teacher(server: ChatServer, **said: Any) -> str:
    table = {"model": "m", "endpoint": server.url, **said}
    return "{" + ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items()) + "}"


def do(run: Run, told: list[Moment] | None = None) -> Answered:
    run.begin("answers")
    value = ANSWERS.run(run, (told if told is not None else []).append)
    assert isinstance(value, Answered)
    return value


def learned(run: Run) -> list[tuple[str, str]]:
    return [(example.prompt[-1].content, example.answer.content)
            for example in read_examples(run.path("answers") / "examples.jsonl") if example.answer is not None]
