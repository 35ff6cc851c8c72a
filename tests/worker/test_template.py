"""The process that renders: limits hold, and whatever a template does costs nobody but its own request."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from edged.errors import InvalidRequest, LoadFailed
from edged.worker import renderer
from edged.worker.template import Template

pytestmark = pytest.mark.worker

#: What the last message says decides what the template does.
SOURCE = """\
{%- set said = messages[-1].content -%}
{%- if said == 'spin' -%}
  {%- for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor -%}
{%- elif said == 'power' -%}{{ 9 ** exponent }}
{%- elif said == 'multiply' -%}{{ said * 10 ** 10 }}
{%- elif said == 'double' -%}
  {%- set ns = namespace(text=said) -%}{%- for a in range(64) -%}{%- set ns.text = ns.text ~ ns.text -%}{%- endfor -%}
{%- elif said == 'flood' -%}{%- for a in range(100000) -%}{{ 'a' * 1000 }}{%- endfor -%}
{%- elif said == 'refuse' -%}{{ raise_exception('Please do not.') }}
{%- elif said == 'escape' -%}{{ cycler.__init__.__globals__.os }}
{%- elif said == 'fail' -%}{{ messages[5].content }}
{%- else -%}{{ bos_token }}{{ said }}{% if tools %} with {{ tools | length }} tools{% endif %}
{%- if add_generation_prompt %}|assistant:{% endif %}{%- endif -%}
"""
DEADLINE_S = 0.5
#: For a machine that has other things to do.
SLACK_S = 10.0


@pytest.fixture
def template() -> Iterator[Template]:
    made = Template(SOURCE, {"bos_token": "<s>"}, deadline_s=DEADLINE_S)
    yield made
    made.close()
    assert renderers() == []


@pytest.fixture
def patient() -> Iterator[Template]:
    """The same, for what is to run into another limit than time."""
    made = Template(SOURCE, {"bos_token": "<s>"}, deadline_s=60)
    yield made
    made.close()
    assert renderers() == []


def say(template: Template, text: str, **kwargs: Any) -> str:
    return template.render([{"role": "user", "content": text}], None, kwargs)


def renderers(of: int | None = None) -> list[psutil.Process]:
    script = os.path.basename(renderer.__file__)
    children = psutil.Process(of).children()
    return [child for child in children if any(part.endswith(script) for part in child.cmdline())]


def test_a_prompt_with_everything_in_it(template: Template) -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    assert template.render([{"role": "user", "content": "hé 🦆"}], [tool], {}) == "<s>hé 🦆 with 1 tools|assistant:"
    assert template.render([{"role": "user", "content": "x"}], None, {}, add_generation_prompt=False) == "<s>x"
    assert say(template, "x", bos_token="<o>") == "<o>x|assistant:"


def test_the_template_refuses_in_its_own_words(template: Template) -> None:
    with pytest.raises(InvalidRequest, match=r"^Please do not\.$") as caught:
        say(template, "refuse")
    assert caught.value.param == "messages"


def test_messages_that_do_not_fit_are_the_callers_to_change(template: Template) -> None:
    with pytest.raises(InvalidRequest, match=r"fails on these messages: list object has no element 5\."):
        say(template, "fail")


def test_an_escape_is_refused_as_the_models_fault(template: Template) -> None:
    with pytest.raises(LoadFailed, match=r"unsafe.*chat_template"):
        say(template, "escape")


@pytest.mark.parametrize("bomb", ["multiply", "double", "flood"])
def test_a_memory_bomb_is_an_error_and_the_next_request_is_served(patient: Template, bomb: str) -> None:
    with pytest.raises(InvalidRequest, match=r"512 MiB of memory or writes more than 16 MiB"):
        say(patient, bomb)
    assert say(patient, "x") == "<s>x|assistant:"


# The power is one call into C, which no signal handler of Python's would interrupt.
@pytest.mark.parametrize("bomb", ["spin", "power"])
def test_an_endless_rendering_ends_at_the_deadline_and_the_next_request_is_served(
    template: Template, bomb: str
) -> None:
    (first,) = renderers()
    start = time.monotonic()
    with pytest.raises(InvalidRequest, match=r"longer than 0\.5 seconds"):
        say(template, bomb, exponent=9**9)
    assert DEADLINE_S <= time.monotonic() - start < DEADLINE_S + SLACK_S
    assert say(template, "x") == "<s>x|assistant:"
    assert first not in renderers()


def test_others_are_served_while_one_rendering_is_endless(patient: Template) -> None:
    failed = threading.Event()

    def endless() -> None:
        with pytest.raises(InvalidRequest):
            say(patient, "spin")
        failed.set()

    thread = threading.Thread(target=endless)
    thread.start()
    for _ in range(20):
        assert say(patient, "x") == "<s>x|assistant:"
    assert not failed.is_set()
    # Neither starting nor rendering takes a second of processor time; spinning will.
    while not (spinning := [child for child in renderers() if child.cpu_times().user > 1]):
        time.sleep(0.05)
    spinning[0].kill()
    thread.join(SLACK_S)
    assert failed.is_set()
    assert say(patient, "x") == "<s>x|assistant:"


def test_many_threads_get_each_their_own_text(patient: Template) -> None:
    with ThreadPoolExecutor(16) as threads:
        texts = list(threads.map(lambda number: say(patient, f"message {number}"), range(300)))
    assert texts == [f"<s>message {number}|assistant:" for number in range(300)]
    assert len(renderers()) <= 2


def test_a_renderer_killed_while_it_waits_is_replaced_unnoticed(template: Template) -> None:
    (child,) = renderers()
    child.kill()
    child.wait()
    assert say(template, "x") == "<s>x|assistant:"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_meant_for_the_daemon_do_not_end_it(template: Template, number: signal.Signals) -> None:
    (child,) = renderers()
    child.send_signal(number)
    assert say(template, "x") == "<s>x|assistant:"
    assert renderers() == [child]


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "chat_template"])
def test_a_caller_cannot_bring_what_is_not_theirs(template: Template, name: str) -> None:
    with pytest.raises(InvalidRequest, match=name) as caught:
        say(template, "x", **{name: "{{ 1 }}"})
    assert caught.value.param == "chat_template_kwargs"


def test_a_value_that_no_frame_holds_is_an_error(template: Template) -> None:
    with pytest.raises(InvalidRequest):
        say(template, "x", number=2**70)
    assert say(template, "x") == "<s>x|assistant:"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{% for %}", "line 1"),
        ("{{ x | nofilter }}", "nofilter"),
        # Jinja folds constants when it compiles.
        ("{{ 9 ** (9 ** 9) }}", "ended"),
    ],
)
def test_a_template_that_does_not_compile_is_refused_at_load(source: str, said: str) -> None:
    with pytest.raises(LoadFailed, match=f"{said}.*chat_template"):
        Template(source, {}, deadline_s=DEADLINE_S)
    assert renderers() == []


def test_it_imports_nothing_but_jinja_msgspec_and_the_standard_library() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs:
        done = subprocess.run(
            [sys.executable, "-P", "-X", "importtime", renderer.__file__],
            stdin=theirs.fileno(), capture_output=True, text=True, timeout=60, check=True,
        )
    names = [line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    # Before `site` is done, .pth files of the environment bring in what they like.
    imported = {name.split(".")[0] for name in names[names.index("site") + 1 :]}
    assert {"jinja2", "msgspec"} <= imported
    # msgspec looks for typing_extensions, and the standard library for Jython's `org`.
    foreign = imported - sys.stdlib_module_names - {"typing_extensions", "org"}
    assert foreign == {"jinja2", "markupsafe", "msgspec"}


@pytest.mark.parametrize("reply", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\xc1", b"\x00\x00"])
def test_a_reply_that_makes_no_sense_costs_no_memory_and_no_hang(
    reply: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    liar = tmp_path / "renderer.py"
    liar.write_text(f"import socket; s = socket.socket(fileno=0); s.recv(1); s.sendall({reply!r})")
    monkeypatch.setattr("edged.worker.template.renderer.__file__", str(liar))
    with pytest.raises(LoadFailed, match=r"makes sense|ended"):
        Template(SOURCE, {})


PARENT = """
import os, sys, threading, time
from edged.worker.template import Template
template = Template({source!r}, {{}}, deadline_s=0.5)
say = lambda text: template.render([{{"role": "user", "content": text}}], None, {{"exponent": 9**9}})
if sys.argv[1] == "working":
    threading.Thread(target=say, args=["power"], daemon=True).start()
    time.sleep(0.2)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("doing", ["waiting", "working"])
def test_it_dies_with_its_parent(doing: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(source=SOURCE), doing],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )
    assert parent.stdin
    assert parent.stdout
    with parent.stdin, parent.stdout:
        assert parent.stdout.readline() == b"ready\n"
        children = renderers(parent.pid)
        parent.kill()
        parent.wait()
    assert children
    gone, alive = psutil.wait_procs(children, timeout=0.5 + renderer.ALARM_GRACE_S + SLACK_S)
    assert not alive
    assert gone


def test_the_memory_of_its_processes_is_known_as_long_as_they_live() -> None:
    template = Template(SOURCE, {"bos_token": "<s>"})
    (child,) = renderers()
    assert template.resident_bytes() == pytest.approx(child.memory_info().rss, rel=0.1)
    template.close()
    assert template.resident_bytes() == 0
