"""The chat's own logic, with a client that plays an answer."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any, cast

import pytest

from edged.cli import chat
from edged.cli.client import Client
from edged.cli.conversation import Conversation
from edged.errors import EdgedError, InvalidRequest

pytestmark = pytest.mark.unit


class Played:
    """Events in place of a daemon."""

    def __init__(self, *events: str) -> None:
        self.events_to_play = events
        self.asked: list[dict[str, Any]] = []
        self.closed = False

    def events(self, path: str, body: dict[str, Any]) -> Generator[bytes, None, None]:
        self.asked.append(body)
        try:
            yield from (event.encode() for event in self.events_to_play)
        finally:
            self.closed = True


def delta(**fields: str) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": fields}]})


def talk(*events: str) -> tuple[Conversation, Played]:
    played = Played(*events)
    return Conversation(cast(Client, played), "m"), played


def test_an_answer_is_remembered_for_the_next_question() -> None:
    conversation, played = talk(delta(role="assistant"), delta(content="Hel"), delta(content="lo"),
                                '{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}', "[DONE]")
    conversation.system = "be brief"
    assert "".join(piece.text for piece in conversation.ask("hi")) == "Hello"
    assert "2 tokens written" in conversation.stats
    list(conversation.ask("again"))
    assert played.asked[1]["messages"] == [
        {"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "again"},
    ]
    conversation.clear()
    assert conversation.request("new")["messages"] == [
        {"role": "system", "content": "be brief"}, {"role": "user", "content": "new"}]


def test_an_answer_that_was_stopped_is_remembered_as_far_as_it_came_and_the_daemon_is_told() -> None:
    conversation, played = talk(delta(content="one "), delta(content="two"))
    pieces = conversation.ask("count")
    assert next(pieces).text == "one "
    cast(Generator[Any, None, None], pieces).close()
    assert played.closed
    assert conversation.turns[-1] == {"role": "assistant", "content": "one "}


def test_an_error_in_the_stream_is_raised_and_an_empty_answer_is_forgotten() -> None:
    conversation, _ = talk('{"error": {"message": "it died", "type": "server_error", "code": "worker_died"}}')
    with pytest.raises(EdgedError, match="it died"):
        list(conversation.ask("hi"))
    assert conversation.turns == []


def test_what_a_model_thinks_is_told_apart_and_not_sent_back() -> None:
    conversation, _ = talk(delta(reasoning_content="hmm"), delta(content="yes"), "[DONE]")
    assert [(piece.text, piece.thinking) for piece in conversation.ask("?")] == [("hmm", True), ("yes", False)]
    assert conversation.turns[-1]["content"] == "yes"


def test_settings_are_numbers_by_name_and_can_be_taken_away() -> None:
    conversation, _ = talk()
    conversation.set("temperature", "0.5")
    conversation.set("max_tokens", "7")
    assert conversation.request("x")["temperature"] == 0.5
    conversation.set("temperature", "default")
    assert "temperature" not in conversation.request("x")
    for name, value in (("max_tokens", "1.5"), ("temperature", "warm"), ("speed", "1")):
        with pytest.raises(InvalidRequest):
            conversation.set(name, value)
    assert conversation.sampling == {"max_tokens": 7}


@pytest.mark.parametrize(("lines", "message"), [
    (["hello"], "hello"),
    (['"""one', "two", 'three"""'], "one\ntwo\nthree"),
    (['"""', "one", '"""'], "one"),
    (['"""all on one"""'], "all on one"),
    (["  indented"], "  indented"),
])
def test_a_message_is_a_line_or_what_is_between_fences(lines: list[str], message: str) -> None:
    left = iter(lines)
    assert chat.read_message(lambda prompt: next(left)) == message
    assert next(left, None) is None


def test_commands_of_the_chat(capsys: pytest.CaptureFixture[str]) -> None:
    conversation, _ = talk()
    assert chat.command(conversation, "/system be brief", stats=False) is False
    assert conversation.request("x")["messages"][0] == {"role": "system", "content": "be brief"}
    chat.command(conversation, "/system", stats=False)
    assert len(conversation.request("x")["messages"]) == 1
    chat.command(conversation, "/set top_k 40", stats=False)
    assert conversation.sampling == {"top_k": 40}
    conversation.turns.append({"role": "user", "content": "x"})
    chat.command(conversation, "/clear", stats=False)
    assert conversation.turns == []
    assert chat.command(conversation, "/stats", stats=False) is True
    capsys.readouterr()
    chat.command(conversation, "/set warmth 3", stats=False)
    chat.command(conversation, "/nonsense", stats=False)
    chat.command(conversation, "/help", stats=False)
    said = capsys.readouterr().err
    assert "there is no setting 'warmth'" in said
    assert "there is no /nonsense" in said
    assert "ctrl-C stops an answer" in said
