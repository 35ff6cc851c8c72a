"""`edged run`: a chat in the terminal, or one answer for a script."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Annotated, Any

from cyclopts import Parameter

from edged.cli.chat import chat, write
from edged.cli.client import Client, model_path
from edged.cli.conversation import Conversation
from edged.cli.exit_codes import ExitCode
from edged.cli.loaded import CAPTURED
from edged.cli.options import Home, Json
from edged.cli.output import about, answer_json, say
from edged.cli.private import private_daemon
from edged.cli.progress import show_for
from edged.cli.pull import absolute, pulled
from edged.cli.target import Target, store_of
from edged.daemon.status import ModelState, ModelStatus
from edged.errors import InvalidRequest, ModelNotFound
from edged.store.catalog import load_catalog
from edged.store.refs import LocalReference, NameReference, parse


def run(
    name: Annotated[str, Parameter(help="An installed model or an alias; what can be pulled is pulled first.")],
    prompt: Annotated[list[str] | None, Parameter(help="The question; without one, a chat. What is piped in is added "
                                                       "to it.", negative=())] = None,
    /, *,
    system: Annotated[str | None, Parameter(help="What the model is told to be.")] = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    seed: int | None = None,
    stats: Annotated[bool, Parameter(help="Tell tokens and rates.", negative="")] = False,
    history: Annotated[bool, Parameter(help="Keep the lines typed, for the next chat.")] = True,
    home: Home = None, json: Json = False,
) -> int:
    """Chat with a model, or get one answer.

    Where no daemon runs, one is started for this command alone. In a chat ctrl-C stops the answer, ctrl-D leaves.

    As in:

    ```
    edged run smollm2-135m
    edged run smollm2-135m "Why is the sky blue?"
    git diff | edged run qwen2.5-coder-1.5b "Write a commit message."
    ```
    """
    said = _said(prompt)
    sampling = {key: value for key, value in (
        ("temperature", temperature), ("max_tokens", max_tokens), ("seed", seed)) if value is not None}
    if json and said is None:
        raise InvalidRequest("--json is for one answer: name a prompt, or pipe one in")
    target = store_of(home)
    with contextlib.ExitStack() as held:
        client, model = held.enter_context(_served(target, name))
        conversation = Conversation(client, model, system, dict(sampling))
        if said is None:
            _loaded(client, model)
            chat(conversation, stats=stats, keep_history=history)
            return ExitCode.OK
        if json:
            answer_json(client.post("/v1/chat/completions", conversation.request(said), dict[str, Any]))
            return ExitCode.OK
        write(conversation.ask(said))
        if stats:
            say(conversation.stats)
    return ExitCode.OK


def _said(prompt: list[str] | None) -> str | None:
    """None means a chat: there is a terminal, and no prompt."""
    words = " ".join(prompt or [])
    if sys.stdin.isatty():
        return words or None
    piped = sys.stdin.read().strip()
    if not words and not piped:
        raise InvalidRequest("there is no prompt: name one, pipe one in, or run in a terminal to chat")
    return "\n\n".join(part for part in (words, piped) if part)


@contextlib.contextmanager
def _served(target: Target, name: str) -> Iterator[tuple[Client, str]]:
    """The daemon and the model's name there, installed."""
    if target.running is not None:
        yield target.running.client, _installed(target, target.running.client, name)
        return
    about("starting a daemon for this command; `edged serve` starts one that stays")
    with private_daemon(target.settings.home) as client:
        yield client, _installed(target, client, name)


def _installed(target: Target, client: Client, name: str) -> str:
    """The name, after a pull where that is needed and possible. Raises ModelNotFound."""
    if not isinstance(parse(name), LocalReference):
        try:
            status = client.get(model_path(name), ModelStatus)
            if status.captured:
                about(f"{status.name}: {CAPTURED}")
            return status.name
        except ModelNotFound:
            if not _can_be_pulled(target, name):
                raise
    about(f"{name} is not installed; pulling it")
    return pulled(target, absolute(name), show_for(json=False)).name


def _can_be_pulled(target: Target, name: str) -> bool:
    entry = load_catalog(target.settings.models_file).entry(name)
    return bool(entry and entry.variants) or not isinstance(parse(name), NameReference)


def _loaded(client: Client, model: str) -> None:
    """So that the first answer does not wait for it."""
    if client.get(model_path(model), ModelStatus).state is not ModelState.READY:
        about(f"loading {model}")
        client.post("/edged/v1/load", {"model": model}, ModelStatus)
