"""Installations of engine environments that fail, are killed, or meet: what is listed is whole.

Real pip, against a folder of wheels made here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edged.errors import Conflict, InsufficientStorage, NotFound, SourceUnavailable
from edged.hardware import environment_making
from edged.hardware.environment_making import install, remove, state
from edged.hardware.environments import environments, names, own_packages, python_of
from edged.version import VERSION
from tests.wheels import wheel

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
PACKAGES = ["edged-canary==1.0"]

INSTALL = """
import sys
from pathlib import Path
from edged.hardware.environment_making import install
made = install(Path(sys.argv[1]), "mine", ["edged-canary==1.0"], "1", lambda line: print(line, flush=True))
print("made", made.name, flush=True)
"""
SLEEP = "import edged, time; print(edged.__file__, flush=True); time.sleep(60)"


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel(folder, "edged-canary", {"edged_canary/data.txt": b"d"})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir()
    return made


def ignore(line: str) -> None:
    pass


def begun(home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", INSTALL, str(home)], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                            start_new_session=True)


def left(home: Path) -> list[str]:
    """What there is besides what is listed and locks."""
    return sorted(path.name for path in (home / "engines").iterdir()
                  if path.name not in names(home) and not path.name.endswith(".lock"))


def test_it_holds_only_what_differs_and_the_rest_is_edgeds_own(home: Path) -> None:
    made = install(home, "mine", PACKAGES, VERSION, ignore)
    assert environments(home) == [made]
    assert left(home) == []
    own = {path.name for path in own_packages(home / "engines" / "mine").iterdir()}
    assert own == {"edged_canary", "edged_canary-1.0.dist-info", "edged-shared.pth"}
    assert state(home, "mine") == (made, None)
    assert made.software.runs("llama")


def test_what_pip_cannot_find_is_told_and_an_older_one_stays(home: Path) -> None:
    made = install(home, "mine", PACKAGES, VERSION, ignore)
    with pytest.raises(SourceUnavailable, match=r"pip could not install edged-canary==2\.0: ERROR: .*edged-canary==2"):
        install(home, "mine", ["edged-canary==2.0"], VERSION, ignore)
    assert environments(home) == [made]
    assert left(home) == []
    assert state(home, "mine") == (made, None)


def test_killed_while_it_is_made_it_is_not_listed_and_the_next_one_clears_up(home: Path) -> None:
    install(home, "mine", PACKAGES, VERSION, ignore)
    remains = 0
    for wait_s in (0.0, 0.15, 0.4, 0.8):
        process = begun(home)
        assert process.stdout is not None
        deadline_s = time.monotonic() + 20
        while not left(home) and process.poll() is None and time.monotonic() < deadline_s:
            time.sleep(0.01)
        time.sleep(wait_s)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        remains += len(left(home))
        assert names(home) == [each.name for each in environments(home)] == ["mine"]
    assert remains > 0
    assert state(home, "mine")[1] is None
    install(home, "mine", PACKAGES, VERSION, ignore)
    assert left(home) == []


def test_two_at_once_take_turns(home: Path) -> None:
    both = [begun(home), begun(home)]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all("made mine" in each for each in said)
    assert sum("waiting for it" in each for each in said) <= 1
    assert state(home, "mine")[1] is None
    assert left(home) == []


def test_one_that_a_process_runs_under_is_neither_made_anew_nor_removed(home: Path) -> None:
    made = install(home, "mine", PACKAGES, VERSION, ignore)
    with subprocess.Popen([python_of(home, "mine"), "-P", "-c", SLEEP], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"{ROOT / 'edged' / '__init__.py'}\n"
            for use in (lambda: install(home, "mine", PACKAGES, VERSION, ignore), lambda: remove(home, "mine")):
                with pytest.raises(Conflict, match=f"process {process.pid} .*unload"):
                    use()
        finally:
            process.kill()
    assert environments(home) == [made]
    remove(home, "mine")
    assert names(home) == left(home) == []
    with pytest.raises(NotFound, match="edged engine list"):
        remove(home, "mine")


def test_one_in_which_edged_does_not_start_is_told_with_its_last_words(home: Path, index: Path) -> None:
    install(home, "mine", PACKAGES, VERSION, ignore)
    (own_packages(home / "engines" / "mine") / "msgspec.py").write_text("raise ImportError('a broken build')")
    about, why = state(home, "mine")
    assert about is not None
    assert "a broken build" in str(why)
    assert "`edged engine install mine --package edged-canary==1.0` makes it anew" in str(why)
    wheel(index, "broken-one", {"msgspec.py": b"raise ImportError('a broken build')"})
    with pytest.raises(SourceUnavailable, match="a broken build"):
        install(home, "other", ["broken-one"], VERSION, ignore)
    assert names(home) == ["mine"]
    assert left(home) == []


def test_no_room_is_told_before_anything_is_made(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment_making, "LEAST_FREE_BYTES", 1 << 60)
    with pytest.raises(InsufficientStorage, match="edged gc"):
        install(home, "mine", PACKAGES, VERSION, ignore)
    assert names(home) == left(home) == []
