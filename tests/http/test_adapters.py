"""Adapters by name: the official client and the command line, against the real daemon with the fake engine, whose text
depends on the adapter that each token was computed with."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from tests.http.conftest import Daemon
from tests.lora_folders import lora_folder

pytestmark = pytest.mark.http

MODEL = "adapted"
HELLO: list[Any] = [{"role": "user", "content": "Say something, and then something else, and then a third thing."}]


@pytest.fixture(scope="module")
def adapted(daemon: Daemon) -> Daemon:
    """A model with two adapters beside it."""
    daemon.pull_fake(MODEL, end_chance=0)
    for seed, name in enumerate(("pirate", "poet")):
        pull(daemon, name, seed)
    return daemon


def pull(daemon: Daemon, name: str, seed: int, model: str = MODEL) -> None:
    folder = lora_folder(daemon.folder / "loras" / name, seed=seed)
    told = daemon.edged("pull", str(folder), "--adapter-of", model)
    assert told.returncode == 0, told.stderr
    assert name in told.stdout


def say(daemon: Daemon, adapter: str | None, model: str = MODEL, **more: Any) -> str:
    extra = {} if adapter is None else {"adapter": adapter}
    with daemon.openai() as client:
        answer = client.chat.completions.create(
            model=model, messages=HELLO, max_tokens=20, temperature=0, extra_body=extra, **more)
    return answer.choices[0].message.content or ""


def test_each_adapter_says_something_else_and_always_the_same(adapted: Daemon) -> None:
    texts = {adapter: say(adapted, adapter) for adapter in (None, "pirate", "poet")}
    assert len(set(texts.values())) == 3
    assert {adapter: say(adapted, adapter) for adapter in ("poet", None, "pirate")} == texts


def test_many_at_once_say_what_each_says_alone(adapted: Daemon) -> None:
    alone = {adapter: say(adapted, adapter) for adapter in (None, "pirate", "poet")}
    order = [None, "pirate", "poet"] * 6
    with ThreadPoolExecutor(len(order)) as pool:
        assert list(pool.map(lambda adapter: say(adapted, adapter), order)) == [alone[adapter] for adapter in order]
    metrics = httpx.get(f"{adapted.base_url}/metrics").text
    switches = next(line for line in metrics.splitlines()
                    if line.startswith(f'edged_adapter_switches_total{{model="{MODEL}"}}'))
    assert float(switches.split()[-1]) > 0


def test_completions_and_streams_take_one_too(adapted: Daemon) -> None:
    said: dict[str, Any] = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 12, "temperature": 0}
    with adapted.openai() as client:
        plain = client.completions.create(**said, extra_body={"adapter": "poet"}).choices[0].text
        with client.completions.create(**said, stream=True, extra_body={"adapter": "poet"}) as stream:
            assert "".join(chunk.choices[0].text for chunk in stream if chunk.choices) == plain
        assert client.completions.create(**said).choices[0].text != plain


@pytest.mark.parametrize(("model", "known"), [(MODEL, "pirate, poet"), ("tiny", "none")])
def test_an_unknown_one_is_refused_by_name_with_those_there_are(adapted: Daemon, model: str, known: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        say(adapted, "corsair", model)
    assert (caught.value.code, caught.value.param) == ("adapter_not_found", "adapter")
    assert known in str(caught.value)


@pytest.mark.parametrize("adapter", ["", 5, ["pirate"]])
def test_what_is_no_name_is_a_400(adapted: Daemon, adapter: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        say(adapted, adapter)
    assert caught.value.param == "adapter"


def test_they_are_listed(adapted: Daemon) -> None:
    with adapted.openai() as client:
        extra = client.models.retrieve(MODEL).model_extra
    assert extra is not None
    assert extra["edged"]["adapters"] == ["pirate", "poet"]
    shown = adapted.edged("show", MODEL)
    assert "adapter      pirate" in shown.stdout


def test_pulling_the_model_again_leaves_its_adapters(adapted: Daemon) -> None:
    version = adapted.status(MODEL)["version"]
    told = adapted.edged("pull", str(adapted.folder / "sources" / MODEL))
    assert told.returncode == 0, told.stderr
    assert adapted.status(MODEL)["version"] == version


def test_one_that_comes_or_goes_while_the_model_answers_drops_no_request(daemon: Daemon) -> None:
    """The next version takes over when it is ready; the new adapter answers from the end of its pull on."""
    daemon.pull_fake("busy", end_chance=0, step_ms=5, load_s=0.5)
    pull(daemon, "first", 1, "busy")
    before = say(daemon, "first", "busy")
    stop, failures, answers = threading.Event(), [], []

    def keep_asking() -> None:
        while not stop.is_set():
            try:
                answers.append(say(daemon, "first", "busy"))
            except openai.OpenAIError as error:
                failures.append(error)

    thread = threading.Thread(target=keep_asking)
    thread.start()
    try:
        pull(daemon, "second", 2, "busy")
        assert say(daemon, "second", "busy") not in (before, say(daemon, None, "busy"))
        removed = daemon.edged("rm", "busy", "--adapter", "second")
        assert removed.returncode == 0, removed.stderr
    finally:
        stop.set()
        thread.join()
    assert not failures
    assert set(answers) == {before}
    assert daemon.status("busy")["adapters"] == ["first"]
    back = daemon.edged("rollback", "busy")
    assert back.returncode == 0, back.stderr
    assert say(daemon, "second", "busy") != before


def test_without_a_daemon_the_command_does_it_itself(daemon: Daemon) -> None:
    home = daemon.folder / "other-home"
    daemon.edged("pull", str(daemon.folder / "sources" / "adapted"), "--home", str(home), EDGED_SOCKET="off")
    folder = lora_folder(daemon.folder / "loras" / "alone", seed=3)
    told = daemon.edged("pull", str(folder), "--adapter-of", "adapted", "--as", "mine", "--home", str(home),
                        EDGED_SOCKET="off")
    assert told.returncode == 0, told.stderr
    assert "mine" in daemon.edged("show", "adapted", "--home", str(home), EDGED_SOCKET="off").stdout


def test_a_pickle_is_no_adapter(daemon: Daemon) -> None:
    folder = daemon.folder / "loras" / "pickled"
    lora_folder(folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    told = daemon.edged("pull", str(folder), "--adapter-of", "tiny")
    assert told.returncode != 0
    assert "pickle" in told.stderr
