"""`kill -9` at any operation of a pull: the next start sees the old model or the new one, whole (PROMISES R1)."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.store import Store
from tests.hub import Hub
from tests.models import contents, gguf_bytes, install

pytestmark = pytest.mark.faults

KILLS = 300
OLD = {"LICENSE": b"old", "m-Q4_0.gguf": gguf_bytes(1, 20_000)}
NEW = {"LICENSE": b"new", "m-Q4_0.gguf": gguf_bytes(2, 2_500_000)}


class Pulls:
    """The process of `tests.faults.killed_pulls`."""

    def __init__(self, home: Path, reference: str, endpoint: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.killed_pulls", str(home), endpoint, reference],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        )

    def one(self, count: int, *, half: bool = False) -> int:
        """How a pull ended that dies before its operation `count`; 0: it went through."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{count} {int(half)}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture
def work() -> Iterator[Path]:
    """In memory where there is such a place: a kill shows nothing about the disk, so thousands of syncs need none."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


def write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for path, data in files.items():
        (folder / path).write_bytes(data)


def served(home: Path) -> dict[str, bytes] | None:
    """What a start would serve now: the active version's files; None where nothing is installed."""
    store = Store(home)
    assert store.verify() == []
    if store.names() == []:
        return None
    return contents(store.folder(store.manifest("m")))


def test_killed_at_any_operation_hundreds_of_times_the_old_or_the_new_model_is_there_whole(work: Path) -> None:
    before, home, source = work / "before", work / "home", work / "m"
    write(source, OLD)
    Store(before).folder(install(Store(before), str(source)))
    write(source, NEW)
    pulls = Pulls(home, str(source), "http://127.0.0.1:9")
    seeded = random.Random(20250101)
    kills, scenario, seen = 0, 0, set[str]()
    try:
        while kills < KILLS:
            shutil.rmtree(home, ignore_errors=True)
            on_top_of_old = scenario % 2 == 1
            if on_top_of_old:
                shutil.copytree(before, home)
            # Every operation in turn, over an empty store and over an old model; then kills in what was left to do.
            counts = [1 + scenario // 2 % 60, *(seeded.randint(1, 40) for _ in range(seeded.randint(0, 2)))]
            for count in counts:
                ended = pulls.one(count, half=seeded.random() < 0.5)
                kills += ended == -signal.SIGKILL
                assert ended in (0, -signal.SIGKILL)
                now = served(home)
                assert now in ([OLD, NEW] if on_top_of_old else [None, NEW])
                seen.add("nothing" if now is None else "old" if now == OLD else "new")
            assert pulls.one(0) == 0
            assert served(home) == NEW
            Store(home).collect(parts_older_than_s=0)
            assert [path.name for path in (home / "tmp").iterdir()] == []
            assert [path.name for path in (home / "locks").iterdir()] == ["store"]
            scenario += 1
    finally:
        pulls.close()
    assert seen == {"nothing", "old", "new"}


def test_a_download_killed_again_and_again_is_continued_where_it_was(work: Path) -> None:
    size, most_at_once = 4_000_000, 6 << 16
    home = work / "home"
    with Hub() as hub:
        hub.add("org/m", "m-Q4_0.gguf", gguf_bytes(3, size))
        Store(home)
        pulls = Pulls(home, "org/m", hub.url)
        try:
            had_bytes = [0]
            while had_bytes[-1] < size - most_at_once:
                # Dies in the middle of its sixth write.
                assert pulls.one(7, half=True) == -signal.SIGKILL
                [part] = (home / "tmp").iterdir()
                had_bytes.append(part.stat().st_size)
            assert pulls.one(0) == 0
        finally:
            pulls.close()
    assert had_bytes == sorted(set(had_bytes))
    assert len(had_bytes) > 10
    store = Store(home)
    assert contents(store.folder(store.manifest("org/m"))) == {"m-Q4_0.gguf": gguf_bytes(3, size)}
    asked = [request.headers.get("range") for request in hub.requests if request.server == "content"]
    assert asked == [None, *(f"bytes={count}-" for count in had_bytes[1:])]
