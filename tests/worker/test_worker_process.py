"""`python -m edged.worker FD`: the whole process over its socket, ended in every way there is."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from edged.ipc.messages import Cancel, Events, Loading, LoadRefused, Pause, Ready, Resume, Stats
from edged.types import AdapterSpec, ChoiceEnd, Delta, Failed, Finished, GenerateRequest, Rendered, Started, TokenPrompt
from tests.worker.worker import PATIENCE_S, Worker, chat, gaps, gone, text

pytestmark = pytest.mark.worker

#: It should be gone in half a second; a step or a load that it waited for would take a minute.
PROMPT_EXIT_S = 5.0
MINUTE_MS = 60_000

BOMB = (
    "{% if messages[-1].content == 'bomb' %}{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}"
    "{% endfor %}{% endif %}{{ messages[-1].content }}"
)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    made: list[Worker] = []

    def make(*, ready: bool = True, load: bool = True, spec: dict[str, Any] | None = None, **said: Any) -> Worker:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        worker = Worker(folder, said=said, load=load, **(spec or {}))
        made.append(worker)
        if ready and load:
            worker.ready()
        return worker

    yield make
    for worker in made:
        worker.end()


def test_it_loads_answers_and_ends_with_its_socket(start: Callable[..., Worker]) -> None:
    worker = start(ready=False, rows=3, context=512)
    first = worker.receive()
    assert isinstance(first, Loading)
    info = worker.ready().info
    assert (info.engine, info.device, info.rows, info.context, info.kv_tokens) == ("fake", "cpu", 3, 512, 1536)
    assert info.chat
    worker.submit(text("hello", id="a"), chat("hello", id="b"))
    seen = worker.until(lambda event: isinstance(event, Finished) and event.id == "b")
    if not any(isinstance(event, Finished) and event.id == "a" for event in seen):
        seen += worker.until(lambda event: isinstance(event, Finished))
    for id in "ab":
        kinds = [type(event) for event in seen if event.id == id]
        assert (kinds[0], kinds[-2:]) == (Started, [ChoiceEnd, Finished])
    worker.socket.close()
    assert worker.exit_code(PROMPT_EXIT_S) == 0
    assert worker.stderr == ""


def test_a_prompt_is_told_while_others_run_and_leaves_nothing_behind(start: Callable[..., Worker]) -> None:
    worker = start(rows=1, step_ms=20)
    worker.submit(text("hello", id="long", tokens=2000))
    worker.until(lambda event: isinstance(event, Started))
    worker.submit(msgspec.structs.replace(chat("hi", id="a"), prompt_only=True))
    seen = worker.until(lambda event: isinstance(event, Finished) and event.id == "a")
    told = next(event for event in seen if event.id == "a")
    assert isinstance(told, Rendered)
    assert told.text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert b"".join(told.pieces).decode() == told.text
    assert [type(event) for event in seen if event.id == "a"] == [Rendered, Finished]
    assert not any(isinstance(event, Finished) and event.id == "long" for event in seen)
    worker.submit(GenerateRequest(id="b", prompt=TokenPrompt([1 << 30]), prompt_only=True))
    assert any(isinstance(event, Failed) and event.param == "prompt"
               for event in worker.until(lambda event: event.id == "b"))


def test_adapters_answer_beside_each_other_and_one_that_is_not_there_is_refused(
    start: Callable[..., Worker], tmp_path: Path,
) -> None:
    for each in ("pirate", "poet"):
        (tmp_path / each).write_text(each)
    adapters = tuple(AdapterSpec(name=each, digest="0", path=str(tmp_path / each)) for each in ("pirate", "poet"))
    worker = start(spec={"adapters": adapters})
    names = {"base": None, "a": "pirate", "b": "poet"}
    worker.submit(*(text("hello", id=id, adapter=name) for id, name in names.items()))
    ended, texts = set[str](), dict.fromkeys(names, "")
    while ended < names.keys():
        for event in worker.until(lambda event: isinstance(event, Finished)):
            ended |= {event.id} if isinstance(event, Finished) else set()
            texts[event.id] += event.text if isinstance(event, Delta) else ""
    assert len(set(texts.values())) == 3
    for id, name in names.items():
        worker.submit(text("hello", id=f"{id}-alone", adapter=name))
        assert worker.answer(f"{id}-alone") == texts[id]
    worker.submit(text("hello", id="c", adapter="corsair"))
    [refused] = worker.until(lambda event: event.id == "c")
    assert isinstance(refused, Failed)
    assert (refused.status, refused.param) == (404, "adapter")
    assert "pirate, poet" in refused.message


def test_an_adapter_that_cannot_be_read_refuses_the_model(start: Callable[..., Worker], tmp_path: Path) -> None:
    missing = AdapterSpec(name="pirate", digest="0", path=str(tmp_path / "missing"))
    worker = start(ready=False, spec={"adapters": (missing,)})
    frame = next(frame for frame in iter(worker.receive, None) if not isinstance(frame, Loading))
    assert isinstance(frame, LoadRefused)
    assert "pirate" in frame.message


def test_a_refusal_is_told_and_is_no_crash(start: Callable[..., Worker]) -> None:
    worker = start(ready=False, refuse_memory=True)
    frame = next(frame for frame in iter(worker.receive, None) if not isinstance(frame, Loading))
    assert isinstance(frame, LoadRefused)
    assert (frame.status, frame.code) == (507, "insufficient_memory")
    assert worker.exit_code() == 0
    assert worker.receive() is None


def test_a_template_that_cannot_be_used_refuses_the_model(start: Callable[..., Worker]) -> None:
    worker = start(ready=False, spec={"chat_template": "{% if %}"})
    frame = next(frame for frame in iter(worker.receive, None) if not isinstance(frame, Loading))
    assert isinstance(frame, LoadRefused)
    assert "template" in frame.message
    assert worker.exit_code() == 0


def test_a_load_that_fails_by_surprise_is_told_too(start: Callable[..., Worker]) -> None:
    worker = start(ready=False, rows=0)
    frame = next(frame for frame in iter(worker.receive, None) if not isinstance(frame, Loading))
    assert isinstance(frame, LoadRefused)
    assert frame.status == 500
    assert "Traceback" in worker.stderr
    assert str(Path(__file__).parent.parent) not in frame.message


@pytest.mark.parametrize("knobs", [{"load_s": 60}, {"hang_on_load": True}, {"step_ms": MINUTE_MS}])
def test_it_ends_with_its_socket_while_it_loads(start: Callable[..., Worker], knobs: dict[str, Any]) -> None:
    worker = start(ready=False, **knobs)
    assert isinstance(worker.receive(), Loading)
    time.sleep(0.5)
    children = worker.children()
    worker.socket.close()
    worker.exit_code(PROMPT_EXIT_S)
    assert gone(children, PROMPT_EXIT_S)


def test_it_ends_with_its_socket_in_the_middle_of_a_step(start: Callable[..., Worker]) -> None:
    worker = start(hang_at_token=2)
    worker.submit(text("hello"))
    worker.until(lambda event: isinstance(event, Started))
    time.sleep(0.3)
    children = worker.children()
    worker.socket.close()
    worker.exit_code(PROMPT_EXIT_S)
    assert gone(children, PROMPT_EXIT_S)


def test_it_ends_with_its_socket_while_a_template_spins(start: Callable[..., Worker]) -> None:
    worker = start(spec={"chat_template": BOMB})
    children = worker.children()
    worker.submit(chat("bomb"))
    time.sleep(0.5)
    worker.socket.close()
    worker.exit_code(PROMPT_EXIT_S)
    assert gone(children, 15)  # its own alarm ends the renderer


def test_a_killed_worker_leaves_no_renderer_behind(start: Callable[..., Worker]) -> None:
    worker = start()
    children = worker.children()
    assert children
    worker.process.kill()
    assert gone(children, PROMPT_EXIT_S)


def test_a_crash_comes_after_the_news_that_the_request_ran(start: Callable[..., Worker]) -> None:
    worker = start(crash_on_text="poison")
    worker.submit(text("poison"))
    seen = worker.until(lambda event: isinstance(event, Started))
    assert [event.id for event in seen] == ["r"]
    assert worker.exit_code() == -signal.SIGSEGV


def test_a_crash_while_loading_is_a_crash(start: Callable[..., Worker]) -> None:
    worker = start(ready=False, crash_on_load=True)
    assert worker.exit_code() == -signal.SIGSEGV


def test_a_fault_of_its_own_ends_it_with_a_traceback(start: Callable[..., Worker]) -> None:
    worker = start()
    worker.submit(text("hello", n=0))
    assert worker.exit_code(PATIENCE_S) == 1
    assert "Traceback" in worker.stderr


@pytest.mark.parametrize("load", [True, False])
def test_what_is_no_frame_ends_it(start: Callable[..., Worker], load: bool) -> None:
    worker = start(load=load)
    worker.socket.sendall(b"\0\0\0\2\xc1\xc1")
    worker.exit_code(PROMPT_EXIT_S)


def test_an_interrupt_of_the_terminal_is_for_the_daemon(start: Callable[..., Worker]) -> None:
    worker = start(step_ms=20)
    worker.submit(text("hello", tokens=30))
    worker.until(lambda event: isinstance(event, Started))
    for process in (psutil.Process(worker.process.pid), *worker.children()):
        process.send_signal(signal.SIGINT)
    worker.answer()
    worker.submit(chat("hello", id="b"))
    worker.answer("b")


def test_a_heartbeat_comes_every_second_idle_and_busy(start: Callable[..., Worker]) -> None:
    worker = start(step_ms=30)
    for busy in (False, True):
        if busy:
            worker.submit(text("hello", tokens=None))
        moments = [moment for moment, frame in worker.frames(3.4) if isinstance(frame, Stats)]
        assert len(moments) >= 2
        assert max(gaps(moments)) < 2.0


def test_silence_while_loading_means_a_hang_also_in_warm_up(start: Callable[..., Worker]) -> None:
    """Loading takes 2.5 s, and each of the two steps of the warm-up as long again."""
    worker = start(ready=False, load_s=2.5, step_ms=2500)
    moments = [0.0]
    for moment, frame in worker.frames(PATIENCE_S):
        moments.append(moment)
        if isinstance(frame, Ready):
            break
        assert isinstance(frame, Loading)
    assert moments[-1] > 7
    assert max(gaps(moments)) < 4


def test_a_template_that_spins_stops_nobodys_tokens_and_ends(start: Callable[..., Worker]) -> None:
    worker = start(step_ms=20, spec={"chat_template": BOMB})
    worker.submit(text("hello", id="running", tokens=None))
    worker.until(lambda event: isinstance(event, Started))
    worker.submit(chat("bomb", id="cancelled"), chat("bomb", id="bomb"), chat("fine", id="waits"))
    worker.send(Cancel("cancelled"))
    moments: list[float] = []
    over: dict[str, Finished | Failed] = {}
    for moment, frame in worker.frames(PATIENCE_S):
        for event in frame.events if isinstance(frame, Events) else ():
            assert event.id != "cancelled"
            if isinstance(event, Delta) and event.id == "running":
                moments.append(moment)
            if isinstance(event, Finished | Failed):
                over[event.id] = event
        if over.keys() >= {"bomb", "waits"}:
            break
    failed = over["bomb"]
    assert isinstance(failed, Failed)
    assert (failed.status, failed.param) == (400, "messages")
    assert isinstance(over["waits"], Finished)
    assert len(moments) > 50
    assert max(gaps(moments)) < 2.0


def test_a_daemon_that_does_not_read_for_a_while_loses_nothing(start: Callable[..., Worker]) -> None:
    """The log-probabilities of an echoed prompt are a frame far larger than a socket holds."""
    worker = start(context=4096)
    prompt = "x" * 2000
    worker.submit(text(prompt, id="large", echo=True, logprobs=20, n=2), text("hello", id="small", tokens=20))
    time.sleep(1.5)
    worker.send(Pause("small"), Resume("small"), Cancel("nobody"))
    seen = worker.until(lambda event: isinstance(event, Finished) and event.id == "large")
    for index in (0, 1):
        deltas = [event for event in seen if isinstance(event, Delta) and (event.id, event.index) == ("large", index)]
        assert deltas[0].text == prompt
        assert len([entry for delta in deltas for entry in delta.logprobs]) == 1 + 2000 + 8
    if not any(isinstance(event, Finished) and event.id == "small" for event in seen):
        worker.answer("small")


def test_a_client_that_reads_slowly_pauses_its_own_row_alone(start: Callable[..., Worker]) -> None:
    worker = start(step_ms=10)
    worker.submit(text("slow", id="slow", tokens=50), text("other", id="other", tokens=50))
    worker.until(lambda event: isinstance(event, Delta) and event.id == "slow")
    worker.send(Pause("slow"))
    seen = worker.until(lambda event: isinstance(event, Finished))
    assert isinstance(seen[-1], Finished)
    assert seen[-1].id == "other"
    assert not [frame for _, frame in worker.frames(1.5) if isinstance(frame, Events)]
    worker.send(Resume("slow"))
    worker.until(lambda event: isinstance(event, Finished) and event.id == "slow")


def test_a_failed_step_is_an_error_to_its_request_and_the_worker_goes_on(start: Callable[..., Worker]) -> None:
    worker = start(fail_at_token=3)
    worker.submit(text("hello", id="bad", tokens=20))
    seen = worker.until(lambda event: isinstance(event, Failed))
    assert [event.id for event in seen if isinstance(event, Failed)] == ["bad"]
    worker.submit(text("hello", id="good"))
    worker.answer("good")


@pytest.mark.parametrize("log_prompts", [True, False])
def test_prompts_are_in_its_log_only_where_asked_for(start: Callable[..., Worker], log_prompts: bool) -> None:
    """Engine failure, refused template and unusable prompt are logged, their words are not."""
    worker = start(context=256, fail_at_token=3, spec={"log_prompts": log_prompts})
    worker.submit(
        chat("the secret word", id="a"), text("the secret word", id="b"), text("the secret word " * 50, id="c"))
    ended: set[str] = set()
    while ended < {"a", "b", "c"}:
        seen = worker.until(lambda event: isinstance(event, Failed | Finished))
        ended |= {event.id for event in seen if isinstance(event, Failed | Finished)}
    worker.socket.close()
    worker.exit_code(PROMPT_EXIT_S)
    assert "engine_failed" in worker.stderr
    assert ("secret" in worker.stderr) == log_prompts
