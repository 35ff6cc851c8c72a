"""Power loss at any instant of a pull: whatever the disk then holds, the next start sees the old model or the new one,
whole, and the next pull ends whole (PROMISES R1)."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edged.errors import EdgedError
from edged.store import Store, files
from edged.store.files import Operation
from tests.faults.crash_states import Disk, put
from tests.models import contents, gguf_bytes, install

pytestmark = pytest.mark.faults

STATES_EACH = 60
OLD = {"LICENSE": b"old", "m-Q4_0.gguf": gguf_bytes(1, 400)}
NEW = {"LICENSE": b"new", "m-Q4_0.gguf": gguf_bytes(2, 500)}


@pytest.fixture
def work() -> Iterator[Path]:
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


def write(folder: Path, data: dict[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for path, each in data.items():
        (folder / path).write_bytes(each)


def recorded(home: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Disk, list[Operation]]:
    """The disk before a pull, and all that the pull and the first load do to it."""
    trace: list[Operation] = []
    home.mkdir(exist_ok=True)
    before = Disk(home)
    with monkeypatch.context() as patched:
        patched.setattr(files, "watch", trace.append)
        store = Store(home)
        store.folder(install(store, str(source)))
    return before, trace


def served(home: Path) -> dict[str, bytes] | None:
    """What a start after the crash would serve. Every version that is listed must be whole."""
    store = Store(home)
    try:
        if store.verify():
            return {"a damaged file": b""}
        return contents(store.folder(store.manifest("m"))) if store.names() else None
    except EdgedError as error:
        return {error.message: b""}


def check(
    disk: Disk, trace: list[Operation], work: Path, source: Path, allowed: list[dict[str, bytes] | None],
) -> tuple[int, list[str]]:
    """(count of states, what is wrong in them) over every crash point of the trace. Once all is done, a crash may not
    take it back."""
    seeded = random.Random(7)
    seen: set[int] = set()
    wrong: list[str] = []
    for number in range(len(trace) + 1):
        for state in disk.states(STATES_EACH, seeded):
            fingerprint = hash(tuple(sorted(state.items(), key=lambda item: item[0])))
            if fingerprint in seen:
                continue
            seen.add(fingerprint)
            home = work / "crashed"
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
            put(state, home)
            after = f"crash before operation {number} of {len(trace)}"
            if (now := served(home)) not in (allowed if number < len(trace) else [NEW]):
                wrong.append(f"{after}: {sorted(now or {})} is not what may be there")
                continue
            install(Store(home), str(source))
            if served(home) != NEW:
                wrong.append(f"{after}: the next pull does not end whole")
        if number < len(trace):
            disk.apply(trace[number])
    return len(seen), wrong


def test_every_crash_state_of_a_first_pull_is_nothing_or_the_whole_model(
    work: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(work / "m", NEW)
    disk, trace = recorded(work / "home", work / "m", monkeypatch)
    count, wrong = check(disk, trace, work, work / "m", [None, NEW])
    assert wrong == []
    assert count > 100


def test_every_crash_state_of_an_update_is_the_old_or_the_new_model_whole(
    work: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(work / "m", OLD)
    Store(work / "home").folder(install(Store(work / "home"), str(work / "m")))
    write(work / "m", NEW)
    disk, trace = recorded(work / "home", work / "m", monkeypatch)
    count, wrong = check(disk, trace, work, work / "m", [OLD, NEW])
    assert wrong == []
    assert count > 100


@pytest.mark.parametrize(("name", "lost"), [
    ("files are not synced", lambda each: each.kind == "sync"),
    ("blobs/ is not synced", lambda each: each.kind == "sync_folder" and each.path.name == "blobs"),
    ("the manifest's folder is not synced", lambda each: each.kind == "sync_folder" and each.path.name == "m"),
    ("manifests/ is not synced", lambda each: each.kind == "sync_folder" and each.path.name == "manifests"),
])
def test_this_check_finds_a_sync_that_is_missing(
    work: Path, monkeypatch: pytest.MonkeyPatch, name: str, lost: Callable[[Operation], bool],
) -> None:
    """The same trace without some of its syncs, as if the store did not make them."""
    write(work / "m", NEW)
    Store(work / "home")
    disk, trace = recorded(work / "home", work / "m", monkeypatch)
    _, wrong = check(disk, [each for each in trace if not lost(each)], work, work / "m", [None, NEW])
    assert wrong, name
