"""A conversion that is killed goes on after the last stage that ended, and leaves one result (PROMISES R1, R3)."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.store import Store
from tests.faults.conversions import ALL, ROOT, asked, begun, check_clean, check_done, kept
from tests.models import contents

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


class Jobs:
    """The process of `tests.faults.killed_conversions`; one folder, again and again."""

    def __init__(self, folder: Path, trace: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.killed_conversions", str(folder)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, cwd=ROOT, env={"CONVERSION_TRACE": str(trace), "EDGED_MODELS": "off"})

    def one(self, how: str = "none", count: int = 0) -> tuple[int, int]:
        """How it ended, and how many operations on files it made."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{how} {count}\n")
        self._process.stdin.flush()
        code, made = self._process.stdout.readline().split()
        return int(code), int(made)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture
def work() -> Iterator[Path]:
    """In memory where there is such a place: a kill shows nothing about the disk."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture
def home(work: Path) -> Path:
    return work / "home"


@pytest.fixture
def folder(home: Path) -> Path:
    return asked(home)


@pytest.fixture
def jobs(home: Path, folder: Path) -> Iterator[Jobs]:
    running = Jobs(folder, home.with_suffix(f".{folder.name}"))
    yield running
    running.close()


def start_again(home: Path, folder: Path) -> None:
    """As if nobody had asked for it yet."""
    store = Store(home)
    store.remove("m")
    store.collect(parts_older_than_s=0)
    asked(home)
    begun(folder)


def test_killed_before_any_operation_on_files_it_goes_on_with_one_result(
    home: Path, folder: Path, jobs: Jobs,
) -> None:
    code, operations = jobs.one()
    assert code == 0
    assert begun(folder) == ALL
    check_done(home, folder)
    assert operations > 150
    in_the_middle_of = Counter[str]()
    for count in range(1, operations + 1):
        start_again(home, folder)
        assert jobs.one("kill", count)[0] == -signal.SIGKILL
        first = begun(folder)
        if Store(home).names():
            # Whatever is there to be served is whole.
            assert len(contents(Store(home).folder(Store(home).manifest("m")))) == 2
        assert jobs.one()[0] == 0
        second = begun(folder)
        # A stage that has ended is not done again; the one that was killed is, or the next one is the first.
        assert first + second in (ALL, [*first, *ALL[len(first) - 1:]])
        in_the_middle_of[first[-1] if first + second != ALL and first else "a border"] += 1
        check_done(home, folder)
    assert set(in_the_middle_of) == {*ALL, "a border"}


def test_killed_again_and_again_it_gets_to_its_end(home: Path, folder: Path, jobs: Jobs) -> None:
    kills = 0
    while (ended := jobs.one("kill", 35))[0] != 0:
        assert ended[0] == -signal.SIGKILL
        kills += 1
        assert kills < 50
    assert kills >= 5
    check_done(home, folder)


def test_a_disk_that_is_full_from_any_operation_on_leaves_nothing_and_a_retry_works(
    home: Path, folder: Path, jobs: Jobs,
) -> None:
    assert jobs.one()[0] == 0
    operations = jobs.one()[1]
    for count in range(1, operations + 1, 5):
        start_again(home, folder)
        code, _ = jobs.one("full", count)
        begun(folder)
        store = Store(home)
        if code == 0:
            # Only tidying was left to do.
            assert store.names() == ["m"]
        else:
            assert kept(folder) <= {"spec.json", "log.txt"}
            # A version that was published and not activated is whole, and what a retry finds.
            assert store.verify() == []
            versions = [store.manifest(*each) for each in store.manifests.everything()]
            check_clean(store, {entry.sha256 for manifest in versions for entry in manifest.files})
        asked(home)
        assert jobs.one()[0] == 0
        check_done(home, folder)
