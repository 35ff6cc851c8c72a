"""The operator's program: what it gives back is kept, and whatever goes wrong keeps nothing."""

from __future__ import annotations

import os
import shlex
import threading
import time
from pathlib import Path

import msgspec
import pytest

from edged.daemon.redaction import Redaction, RedactionFailed, require_program
from edged.errors import ConfigError
from edged.settings import Origin, Settings
from edged.store.captured import Answer

pytestmark = pytest.mark.faults

ANSWER = Answer(
    id="r1", at=1.0, model="tiny", version="v", adapter=None, finish_reason="stop", prompt_tokens=1,
    completion_tokens=1, client=None, tools=[], messages=[
        {"role": "user", "content": "I am Ada."}, {"role": "assistant", "content": "Hello, Ada."}])
LINE = msgspec.json.encode(ANSWER) + b"\n"


def shell(script: str, limit_s: float = 10.0) -> Redaction:
    return Redaction(("sh", "-c", script), limit_s)


def test_what_it_writes_is_kept_instead() -> None:
    redacted = shell("sed s/Ada/NAME/g").redact(LINE)
    assert redacted == LINE.replace(b"Ada", b"NAME")


def test_a_line_that_is_written_prettily_comes_back_as_one_line() -> None:
    pretty = msgspec.json.format(LINE.strip(), indent=2).decode()
    assert shell(f"cat >/dev/null; printf %s {shlex.quote(pretty)}").redact(LINE) == LINE


@pytest.mark.parametrize("script", ["cat > /dev/null", "exit 0", "echo"])
def test_nothing_means_that_nothing_is_kept(script: str) -> None:
    assert shell(script).redact(LINE) is None


@pytest.mark.parametrize(("script", "why"), [
    ("cat; exit 3", "exit code 3"), ("echo no", "something else"), ("cat; echo junk", "something else"),
    ("echo '{}'", "something else"), ("kill -9 $$", "exit code -9"), ("sed 's/\"id\"/\"key\"/'", "something else"),
    ("printf '\\377'", "something else"), ("yes", "wrote more than"),
    ("sed 's/Ada/\\xff/'", "something else"), ("printf '{\"x\":'; printf '[%.0s' $(seq 9000)", "something else"),
])
def test_whatever_goes_wrong_is_a_failure_in_few_words(script: str, why: str) -> None:
    with pytest.raises(RedactionFailed, match=why) as caught:
        shell(script).redact(LINE)
    assert "Ada" not in str(caught.value)


def test_a_program_that_is_not_there_is_a_failure() -> None:
    with pytest.raises(RedactionFailed, match="cannot be started"):
        Redaction(("/no/such/program",), 1.0).redact(LINE)


@pytest.mark.parametrize("script", ["sleep 60", "cat >/dev/null; sleep 60", "sleep 60 & exit 0", "exec >&-; sleep 60"])
def test_one_that_takes_too_long_is_killed_with_all_that_it_started(tmp_path: Path, script: str) -> None:
    marked = f"echo $$ > {shlex.quote(str(tmp_path / 'leader'))}; {script}"
    began = time.monotonic()
    with pytest.raises(RedactionFailed, match="longer than"):
        shell(marked, 0.3).redact(LINE)
    assert time.monotonic() - began < 5
    group = int((tmp_path / "leader").read_text())
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            break
        time.sleep(0.02)
    else:
        raise AssertionError("something of it is left")


def test_a_long_line_passes_a_program_that_reads_slowly() -> None:
    long = msgspec.json.encode(msgspec.structs.replace(ANSWER, messages=[
        {"role": "user", "content": "é" * 500_000}, *ANSWER.messages])) + b"\n"
    assert shell("sleep 0.05; cat").redact(long) == long


def test_a_stop_ends_what_runs_and_nothing_is_begun_afterwards() -> None:
    redaction = shell("sleep 60", 30.0)
    threading.Timer(0.2, redaction.stop).start()
    with pytest.raises(RedactionFailed):
        redaction.redact(LINE)
    with pytest.raises(RedactionFailed, match="stopping"):
        redaction.redact(LINE)


def test_it_gets_no_secrets_and_no_settings_of_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGED_HF_TOKEN", "t")
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    shell(f"env > {shlex.quote(str(tmp_path / 'env'))}").redact(LINE)
    told = (tmp_path / "env").read_text()
    assert "EDGED_" not in told
    assert "OPENAI_API_KEY" not in told
    assert "PATH=" in told


def test_a_program_that_cannot_be_found_stops_the_start() -> None:
    settings = Settings(capture_redact="no-such-program --fast")  # type: ignore[arg-type]
    assert settings.capture_redact == ("no-such-program", "--fast")
    with pytest.raises(ConfigError, match="there is no program no-such-program"):
        require_program(settings, {"capture_redact": Origin("flag", "--capture-redact")})
    require_program(Settings(capture_redact=("sh",)), {})
