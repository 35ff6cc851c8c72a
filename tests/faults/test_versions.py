"""`kill -9` and power loss at any operation of a migration, an activation, a roll-back, an amendment: the store is as
before or as after, whole (PROMISES R1, R16)."""

from __future__ import annotations

import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Struct

from edged.errors import EdgedError
from edged.store import Store, files
from edged.store.files import Operation
from tests.faults.crash_states import Disk, put
from tests.faults.mounts import needs_mounts, run_with
from tests.faults.version_steps import NEW, OLD, QUALITY, STEPS
from tests.models import past_store

pytestmark = pytest.mark.faults

STATES_EACH = 60
READ = """
import sys
from pathlib import Path
from edged.errors import EdgedError
from edged.store import Store
store = Store(Path(sys.argv[1]))
manifest = store.manifest("tiny")
with store.lease(manifest):
    print(store.names(), manifest.version, sorted(path.name for path in store.folder(manifest).iterdir()))
print(store.verify(), (Path(sys.argv[1]) / "schema.json").read_text().strip())
try:
    store.activate("tiny", "ba65")
except EdgedError as error:
    print(error.message)
"""


class Seen(Struct, frozen=True):
    """What a start would see. history: of `tiny`, which must end with its active version."""

    active: str
    accepted: bool | None
    history: tuple[str, ...]


def seen(home: Path) -> Seen:
    store = Store(home)
    assert store.names() == ["org/repo:Q4_K_M", "tiny"]
    assert [manifest.version for manifest in store.versions("tiny")] == [OLD, NEW]
    assert store.verify() == []
    quality = store.manifest("tiny", OLD).quality
    assert quality is None or quality.lacking == QUALITY.lacking
    history = tuple(each.version for each in store.history("tiny"))
    assert history[-1] == store.active("tiny")
    return Seen(store.active("tiny"), None if quality is None else quality.accepted_loss, history)


@pytest.fixture
def work() -> Iterator[Path]:
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


def prepared(step: str, home: Path) -> Path:
    """A store in which the step has something to do."""
    past_store(1, home)
    if step == "migrate":
        return home
    store = Store(home)
    if step in ("activate", "roll_back"):
        STEPS["amend"](store)
    if step == "roll_back":
        store.activate("tiny", OLD)
        store.activate("tiny", NEW)
    return home


#: How each step ends; what is seen is this or what was before, except that a loss may be accepted and not yet served.
AFTER = {
    "migrate": Seen(NEW, None, (NEW,)), "amend": Seen(NEW, False, (NEW,)), "activate": Seen(OLD, True, (NEW, OLD)),
    "roll_back": Seen(OLD, True, (NEW, OLD, NEW, OLD)),
}


def allowed(step: str, before: Seen) -> list[Seen]:
    return [before, AFTER[step], *([Seen(NEW, True, (NEW,))] if step == "activate" else [])]


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_operation_the_store_is_as_before_or_as_after(step: str, work: Path) -> None:
    before_home = prepared(step, work / "before")
    before = seen(shutil.copytree(before_home, work / "looked at"))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.killed_steps", str(work / "home")], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert process.stdin is not None
    assert process.stdout is not None
    ended, count, states = -signal.SIGKILL, 0, set[Seen]()
    try:
        while ended == -signal.SIGKILL:
            count += 1
            for half in (0, 1):
                shutil.rmtree(work / "home", ignore_errors=True)
                shutil.copytree(before_home, work / "home")
                process.stdin.write(f"{count} {half} {step}\n")
                process.stdin.flush()
                ended = int(process.stdout.readline())
                assert ended in (0, -signal.SIGKILL)
                now = seen(work / "home")
                assert now in allowed(step, before)
                states.add(now)
                Store(work / "home").collect(parts_older_than_s=0)
                assert [*(work / "home" / "tmp").iterdir()] == []
                if now == before and step != "migrate":
                    STEPS[step](Store(work / "home"))
                    assert seen(work / "home") == AFTER[step]
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()
    assert AFTER[step] in states
    assert count > 5


@pytest.mark.parametrize("step", STEPS)
def test_every_crash_state_is_as_before_or_as_after(step: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = prepared(step, work / "home")
    before = seen(shutil.copytree(home, work / "looked at"))
    disk, trace = Disk(home), list[Operation]()
    with monkeypatch.context() as patched:
        store = None if step == "migrate" else Store(home)
        patched.setattr(files, "watch", trace.append)
        STEPS[step](store or Store(home))
    seeded = random.Random(11)
    wrong, count = [], 0
    for number in range(len(trace) + 1):
        for state in disk.states(STATES_EACH, seeded):
            crashed = work / "crashed"
            shutil.rmtree(crashed, ignore_errors=True)
            crashed.mkdir()
            put(state, crashed)
            count += 1
            try:
                now = seen(crashed)
            except (EdgedError, AssertionError) as error:
                wrong.append(f"crash before operation {number}: {error}")
                continue
            if now not in (allowed(step, before) if number < len(trace) else [AFTER[step]]):
                wrong.append(f"crash before operation {number}: {now}")
        if number < len(trace):
            disk.apply(trace[number])
    assert wrong == []
    assert count > 10


@needs_mounts
def test_an_older_store_that_cannot_be_written_still_serves(tmp_path: Path) -> None:
    home = past_store(1, tmp_path / "home")
    prepared_folder = Store(past_store(1, tmp_path / "elsewhere"))
    prepared_folder.folder(prepared_folder.manifest("tiny"))
    shutil.copytree(prepared_folder.home / "models", home / "models")
    for folder in ("kv", "jobs", "tmp", "locks"):
        (home / folder).mkdir()
    quoted = shlex.quote(str(home))
    said = run_with(f"mount --bind {quoted} {quoted}\nmount -o remount,ro,bind {quoted}", READ, home)
    assert said.splitlines() == [
        f"['org/repo:Q4_K_M', 'tiny'] {NEW} ['LICENSE', 'fake.json']", '[] {"schema":1}',
        "the store cannot be written (Read-only file system), so all serves as before"]
