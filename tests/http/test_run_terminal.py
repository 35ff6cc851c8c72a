"""`edged run` in a terminal, and what becomes of the daemon that it started."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pexpect
import psutil
import pytest

from tests.daemon import EDGED, ROOT, Daemon, environment, until
from tests.models import fake_folder

pytestmark = pytest.mark.http

#: A prompt anew: it turns bracketed paste on.
PROMPT = r"\x1b\[\?2004h[^>]*>>>"
MORE = r"\x1b\[\?2004h[^.]*\.\.\."


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("terminal")) as made:
        made.pull_fake("brief", end_chance=0)
        made.pull_fake("endless", end_chance=0, step_ms=20)
        yield made


@contextlib.contextmanager
def terminal(daemon: Daemon, *arguments: str) -> Iterator[pexpect.spawn[str]]:
    """A chat in a pseudo-terminal, at its first prompt."""
    child: pexpect.spawn[str] = pexpect.spawn(
        EDGED[0], [*EDGED[1:], "run", *arguments], cwd=str(ROOT), encoding="utf-8", timeout=20, dimensions=(40, 200),
        env={**daemon.environment, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"})
    try:
        child.expect("ctrl-D leaves")
        child.expect(PROMPT)
        yield child
    finally:
        child.close(force=True)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", text)


def test_ctrl_c_stops_the_answer_and_not_the_chat_and_ctrl_d_leaves(daemon: Daemon) -> None:
    with terminal(daemon, "endless") as child:
        child.send("hello\r")
        for _ in until(10):
            if daemon.json("ps")[0]["running"]:
                break
        child.sendintr()
        child.expect(r"\(stopped\)")
        child.expect(PROMPT)
        for _ in until(5):
            if not daemon.json("ps")[0]["running"]:
                break
        assert daemon.json("ps")[0]["running"] == 0
        child.sendintr()
        child.expect(PROMPT)
        child.sendeof()
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 0


def test_settings_several_lines_and_history(daemon: Daemon) -> None:
    with terminal(daemon, "brief", "--max-tokens", "5") as child:
        child.send("/stats\r")
        child.expect(PROMPT)
        child.send("one line\r")
        child.expect("5 tokens written")
        child.expect(PROMPT)
        child.send("/set max_tokens 3\r")
        child.expect("max_tokens 3")
        child.expect(PROMPT)
        child.send('"""first\r')
        child.expect(MORE)
        child.send('second"""\r')
        child.expect("3 tokens written")
        child.expect(PROMPT)
        child.send("/set speed 3\r")
        child.expect("there is no setting 'speed'")
        child.expect(PROMPT)
        child.send("/bye\r")
        child.expect(pexpect.EOF)
    history = daemon.folder / ".local/state/edged/history"
    assert "one line" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


def test_a_pull_in_a_terminal_has_a_bar_and_elsewhere_has_none(daemon: Daemon, tmp_path: Path) -> None:
    source = fake_folder(tmp_path / "barred")
    child: pexpect.spawn[str] = pexpect.spawn(
        EDGED[0], [*EDGED[1:], "pull", str(source)], cwd=str(ROOT), encoding="utf-8", timeout=20,
        env={**daemon.environment, "TERM": "xterm"})
    child.expect(pexpect.EOF)
    assert child.before is not None
    assert "━" in child.before
    assert "pulled barred@" in plain(child.before)
    assert child.wait() == 0
    again = daemon.edged("pull", str(source))
    assert "━" not in again.stdout + again.stderr


def session_daemons(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if "--session" in (command := process.cmdline()) and f"--home={folder / 'home'}" in command:
                found.append(process)
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_daemon_of_a_command_ends_with_it_however_that_ends(tmp_path: Path, number: signal.Signals) -> None:
    source = fake_folder(tmp_path / "endless", end_chance=0, step_ms=20)
    child = subprocess.Popen([*EDGED, "run", str(source), "hello"], cwd=ROOT, env=environment(tmp_path),
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdout is not None
    assert child.stdout.read(5)
    [daemon] = session_daemons(tmp_path)
    children = [daemon, *daemon.children(recursive=True)]
    assert len(children) >= 2
    child.send_signal(number)
    child.communicate()
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert child.returncode == (130 if number is signal.SIGINT else -number)
