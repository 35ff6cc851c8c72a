"""Whole answers kept for training, where the operator says so, whatever wire they came over; never otherwise."""

from __future__ import annotations

import json
import re
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from edged.toml_file import TomlFile
from tests.daemon import until
from tests.http.conftest import MODELS_FILE, Daemon
from training.chat_wire import Ask
from training.data.read import examples_of
from training.endpoint import Endpoint
from training.examples import Message
from training.recipe import Recipe
from training.run import Run

pytestmark = pytest.mark.http

SAID = "say: The box is blue."
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": SAID}]}
WIRES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", CHAT),
    ("/v1/responses", {"model": "tiny", "input": SAID}),
    ("/v1/messages", {"model": "tiny", "max_tokens": 50, "messages": [{"role": "user", "content": SAID}]}),
    ("/api/chat", {"model": "tiny", "messages": [{"role": "user", "content": SAID}]}),
]
TOOL = {"type": "function", "function": {"name": "lamp", "parameters": {
    "type": "object", "properties": {"on": {"type": "boolean"}}}}}


def ask(daemon: Daemon, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    told = httpx.post(daemon.base_url + path, json=body, headers=headers, timeout=30)
    assert told.status_code == 200, told.text
    return told


def kept(daemon: Daemon, count: int, model: str = "tiny") -> list[dict[str, Any]]:
    """What is captured, once there are so many."""
    for _ in until(10):
        lines = [line for path in sorted((daemon.home / "captured" / model).glob("*.jsonl"))
                 for line in path.read_text().splitlines()]
        if len(lines) >= count:
            break
    assert len(lines) == count
    return [json.loads(line) for line in lines]


def metric(daemon: Daemon, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", httpx.get(daemon.base_url + "/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_each_wire_is_captured_alike_plain_and_streamed(start: Callable[..., Daemon]) -> None:
    daemon = start(capture="tiny")
    for path, body in WIRES:
        for stream in (False, True):
            assert ask(daemon, path, body | {"stream": stream}).headers["edged-capture"] == "on"
    answers = kept(daemon, 8)
    version = daemon.status("tiny")["version"]
    for answer in answers:
        assert list(answer) == ["id", "at", "model", "version", "adapter", "messages", "tools", "finish_reason",
                                "prompt_tokens", "completion_tokens", "client"]
        assert answer["messages"] == [{"role": "user", "content": SAID},
                                      {"role": "assistant", "content": "The box is blue."}]
        assert (answer["model"], answer["version"], answer["adapter"]) == ("tiny", version, None)
        assert (answer["tools"], answer["finish_reason"], answer["client"]) == ([], "stop", None)
        assert answer["prompt_tokens"] > 5 < answer["completion_tokens"]
        assert abs(answer["at"] - time.time()) < 60
    assert len({answer["id"] for answer in answers}) == 8
    assert metric(daemon, 'edged_captured_answers_total{model="tiny"}') == 8
    assert metric(daemon, "edged_captured_bytes") > 1000


def test_calls_are_captured_with_the_tools_and_the_counts_of_the_client(start: Callable[..., Daemon]) -> None:
    daemon = start(capture="tiny")
    asked = [{"role": "user", "content": 'say: <tool_call>{"name": "lamp", "arguments": {"on": true}}</tool_call>'}]
    told = ask(daemon, "/v1/chat/completions", CHAT | {"messages": asked, "tools": [TOOL]}).json()
    (answer,) = kept(daemon, 1)
    assert answer["tools"] == [TOOL]
    assert answer["finish_reason"] == "tool_calls"
    assert answer["messages"][-1]["tool_calls"] == told["choices"][0]["message"]["tool_calls"]
    assert (answer["prompt_tokens"], answer["completion_tokens"]) == (
        told["usage"]["prompt_tokens"], told["usage"]["completion_tokens"])


def test_nothing_is_captured_unless_the_operator_says_so(daemon: Daemon) -> None:
    for path, body in WIRES:
        assert "edged-capture" not in ask(daemon, path, body).headers
    assert not (daemon.home / "captured").exists()
    assert daemon.json("captured", "list") == {"on": [], "kept": []}
    assert "capture.on" not in [entry.get("event") for entry in daemon.log()]


def test_what_is_not_whole_or_not_asked_for_or_not_wanted_by_its_client_is_not_captured(
    start: Callable[..., Daemon],
) -> None:
    daemon = start(capture="tiny,slow")
    cut = ask(daemon, "/v1/chat/completions", CHAT | {"max_tokens": 3})
    assert cut.json()["choices"][0]["finish_reason"] == "length"
    with httpx.stream("POST", daemon.base_url + "/v1/chat/completions", timeout=30,
                      json=CHAT | {"model": "slow", "stream": True}) as stream:
        assert next(stream.iter_lines())
    for path, body in WIRES:
        for refusal in ("off", "no", ""):
            told = ask(daemon, path, body, **{"edged-capture": refusal})
            assert "edged-capture" not in told.headers
    for path, body in WIRES[:2]:
        told = ask(daemon, path, body | {"store": False})
        assert "edged-capture" not in told.headers
        assert "edged-ignored" not in told.headers
    ask(daemon, "/v1/completions", {"model": "tiny", "prompt": "say", "max_tokens": 3})
    ask(daemon, "/v1/chat/completions", CHAT | {"model": "wordy", "max_tokens": 3})
    ask(daemon, "/v1/messages/count_tokens", {"model": "tiny", "messages": CHAT["messages"]})
    ask(daemon, "/v1/chat/completions", CHAT, **{"edged-capture": "on"})
    assert len(kept(daemon, 1)) == 1
    assert daemon.json("captured", "list")["kept"][0]["answers"] == 1
    assert [path.name for path in (daemon.home / "captured").iterdir()] == ["tiny"]


def test_one_in_the_background_is_captured_and_says_so_when_it_is_asked_for(start: Callable[..., Daemon]) -> None:
    daemon = start(capture="tiny")
    told = ask(daemon, "/v1/responses", {"model": "tiny", "input": SAID, "background": True})
    assert told.headers["edged-capture"] == "on"
    kept(daemon, 1)
    told = ask(daemon, "/v1/responses", {"model": "tiny", "input": SAID, "background": True},
               **{"edged-capture": "off"})
    assert "edged-capture" not in told.headers
    time.sleep(0.3)
    kept(daemon, 1)


def test_one_in_the_background_is_captured_as_its_client_was_told_whatever_is_set_meanwhile(
    start: Callable[..., Daemon],
) -> None:
    daemon = start()
    body = {"model": "late", "input": SAID, "background": True}
    mark = daemon.log_file.stat().st_size
    first = ask(daemon, "/v1/responses", body)  # which waits for its model to load
    daemon.models_file.write_text("[models.late]\ncapture = true\n" + MODELS_FILE)
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_log("capture.on", after=mark)
    assert first.json()["status"] == "queued"
    second = ask(daemon, "/v1/responses", body | {"input": "say: Yes."})
    assert ("edged-capture" in first.headers, "edged-capture" in second.headers) == (False, True)
    for told in (first, second):
        for _ in until(20):
            if httpx.get(f"{daemon.base_url}/v1/responses/{told.json()['id']}").json()["status"] == "completed":
                break
    (answer,) = kept(daemon, 1, "late")
    assert answer["messages"][-1]["content"] == "Yes."


def test_a_conversation_that_is_continued_is_captured_with_what_came_before(start: Callable[..., Daemon]) -> None:
    daemon = start(capture="tiny")
    first = ask(daemon, "/v1/responses", {"model": "tiny", "input": SAID, "instructions": "Be brief."}).json()
    ask(daemon, "/v1/responses", {"model": "tiny", "input": "say: Yes.", "previous_response_id": first["id"]})
    texts = [(message["role"], message["content"]) for message in kept(daemon, 2)[1]["messages"]]
    assert texts == [("user", SAID), ("assistant", "The box is blue."), ("user", "say: Yes."), ("assistant", "Yes.")]


def test_the_catalog_turns_it_on_and_off_at_once_and_every_command_says_so(start: Callable[..., Daemon]) -> None:
    daemon = start()
    ask(daemon, "/v1/chat/completions", CHAT)
    mark = daemon.log_file.stat().st_size
    daemon.models_file.write_text(MODELS_FILE.replace("[models.tiny]", "[models.tiny]\ncapture = true"))
    daemon.signal(signal.SIGHUP)
    assert daemon.wait_for_log("capture.on", after=mark)["models"] == ["tiny"]
    assert ask(daemon, "/v1/chat/completions", CHAT).headers["edged-capture"] == "on"
    kept(daemon, 1)
    assert "tiny: its answers are captured for training" in daemon.edged("ps").stdout
    assert "its answers are captured" in daemon.edged("show", "tiny").stdout
    assert "tiny: its answers are captured" in daemon.edged("run", "tiny", SAID).stderr
    assert daemon.status("tiny")["captured"] is True
    assert daemon.status("slow")["captured"] is False
    # The command's own settings say nothing of it: the daemon is asked.
    doctor = daemon.edged("doctor").stdout
    assert f"answers of tiny are captured in {daemon.home / 'captured'}" in doctor
    assert "nothing redacts them" in doctor
    mark = daemon.log_file.stat().st_size
    daemon.models_file.write_text(MODELS_FILE.replace("[models.tiny]", "[models.tiny]\ncapture = false"))
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_log("capture.off", after=mark)
    assert "edged-capture" not in ask(daemon, "/v1/chat/completions", CHAT).headers
    assert "captured" not in daemon.edged("ps").stdout + daemon.edged("doctor").stdout
    daemon.stop()
    doctor = daemon.edged("doctor", EDGED_CAPTURE="tiny", EDGED_CAPTURE_REDACT="sh -c true").stdout
    assert "answers of tiny are captured" in doctor
    assert "redacted by sh" in doctor
    assert "there is no program no-such" in daemon.edged("doctor", EDGED_CAPTURE_REDACT="no-such").stdout
    kept(daemon, 2)


def test_files_are_private_and_hold_the_hash_of_a_key_and_never_the_key(start: Callable[..., Daemon]) -> None:
    daemon = start(capture="tiny", api_keys="a-secret-key")
    ask(daemon, "/v1/chat/completions", CHAT, authorization="Bearer a-secret-key")
    (answer,) = kept(daemon, 1)
    assert re.fullmatch("sha256:[0-9a-f]{16}", answer["client"])
    for path in [daemon.home / "captured", *(daemon.home / "captured").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
        assert path.is_dir() or b"a-secret-key" not in path.read_bytes()
    for route in ("captured", "captured/tiny"):
        told = httpx.get(f"{daemon.base_url}/edged/v1/{route}", headers={"authorization": "Bearer a-secret-key"})
        assert told.status_code == 403


@pytest.mark.parametrize("running", [True, False])
def test_answers_are_listed_exported_and_purged_with_a_daemon_and_without(
    start: Callable[..., Daemon], running: bool,
) -> None:
    daemon = start(capture="tiny,slow")
    for _ in range(3):
        ask(daemon, "/v1/chat/completions", CHAT)
    ask(daemon, "/v1/chat/completions", CHAT | {"model": "slow"})
    answers = kept(daemon, 3)
    kept(daemon, 1, "slow")
    if not running:
        daemon.stop()
    listed = daemon.json("captured", "list")
    assert listed["on"] == (["slow", "tiny"] if running else [])
    assert [(each["model"], each["answers"], each["files"]) for each in listed["kept"]] == [
        ("slow", 1, 1), ("tiny", 3, 1)]
    assert "tiny" in daemon.edged("captured", "list").stdout
    file = daemon.folder / "answers.jsonl"
    assert daemon.json("captured", "export", "tiny", str(file)) == {
        "model": "tiny", "file": str(file), "answers": 3}
    assert [json.loads(line) for line in file.read_text().splitlines()] == answers
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert daemon.edged("captured", "export", "tiny").stdout == file.read_text()
    again = daemon.edged("captured", "export", "tiny", str(file))
    assert (again.returncode, "is there already" in again.stderr) == (5, True)
    nothing = daemon.edged("captured", "export", "wordy", str(daemon.folder / "none.jsonl"))
    assert (nothing.returncode, "There are answers of slow, tiny" in nothing.stderr) == (3, True)
    assert not (daemon.folder / "none.jsonl").exists()
    assert daemon.edged("captured", "purge", "slow").stdout == "1 captured answers removed\n"
    assert [each["model"] for each in daemon.json("captured", "list")["kept"]] == ["tiny"]
    assert daemon.json("purge")["captured"] == 3
    assert daemon.json("captured", "list")["kept"] == []
    assert not list((daemon.home / "captured").rglob("*.jsonl"))


def test_a_purge_forgets_what_is_being_answered_too(start: Callable[..., Daemon]) -> None:
    daemon = start(capture="slow")
    said = CHAT | {"model": "slow", "stream": True, "messages": [{"role": "user", "content": "say: " + "word " * 30}]}
    with httpx.stream("POST", daemon.base_url + "/v1/chat/completions", json=said, timeout=30) as stream:
        lines = stream.iter_lines()
        next(lines)
        assert ask(daemon, "/edged/v1/captured/purge", {}).json() == {"answers": 0}
        assert '"stop"' in "".join(lines)
    ask(daemon, "/v1/chat/completions", CHAT | {"model": "slow"})
    (answer,) = kept(daemon, 1, "slow")
    assert answer["messages"][0]["content"] == SAID


def test_a_program_redacts_each_answer_before_it_is_kept(start: Callable[..., Daemon]) -> None:
    daemon = start(capture="tiny", capture_redact="sed 's/blue/COLOUR/g; /forget/d'")
    ask(daemon, "/v1/chat/completions", CHAT)
    ask(daemon, "/v1/chat/completions", CHAT | {"messages": [{"role": "user", "content": "say: forget it"}]})
    ask(daemon, "/v1/chat/completions", CHAT)
    for answer in kept(daemon, 2):
        assert answer["messages"][-1]["content"] == "The box is COLOUR."
    assert metric(daemon, 'edged_capture_dropped_total{model="tiny",reason="redacted"}') == 1


def test_a_recipe_learns_from_what_was_captured(
    start: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:
    daemon = start(capture="tiny")
    called = 'say: <tool_call>{"name": "lamp", "arguments": {"on": true}}</tool_call>'
    ask(daemon, "/v1/chat/completions", CHAT | {"messages": [{"role": "user", "content": called}], "tools": [TOOL]})
    for path, body in WIRES:
        ask(daemon, path, body)
    answers = kept(daemon, 5)
    monkeypatch.setenv("EDGED_HOME", str(daemon.home))
    run = Run(tmp_path, Recipe(name="x", base="./b"), TomlFile(tmp_path / "recipe.toml", "", {}))
    first, *others = examples_of(run, ("captured:tiny",), ("data", "train"))
    assert first.prompt == (Message("user", called),)
    assert first.answer == Message("assistant", "", tuple(answers[0]["messages"][-1]["tool_calls"]))
    assert first.tools == (TOOL,)
    assert [(each.prompt, each.answer) for each in others] == [
        ((Message("user", SAID),), Message("assistant", "The box is blue."))] * 4


def test_what_training_asks_is_not_captured(start: Callable[..., Daemon]) -> None:
    daemon = start(capture="tiny")
    with Endpoint(daemon.base_url + "/v1", "tiny") as endpoint:
        said = Ask(messages=(Message("user", SAID),), max_tokens=50)
        assert endpoint.ask(said).message.content == "The box is blue."
    ask(daemon, "/v1/chat/completions", CHAT)
    kept(daemon, 1)


def test_a_daemon_does_not_start_with_a_program_that_is_not_there(start: Callable[..., Daemon]) -> None:
    with pytest.raises(AssertionError, match="--capture-redact: there is no program no-such"):
        start(capture="tiny", capture_redact="no-such")
