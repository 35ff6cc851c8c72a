"""Many processes on one store: one download, and nobody's files are collected from under them (PROMISES R9)."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from edged.errors import Conflict
from edged.store import Store
from edged.store.entries import Catalog, Manifest
from edged.store.pull import pull
from tests.hub import Hub
from tests.models import contents, fake_folder, gguf_bytes, ignore, install

pytestmark = pytest.mark.faults

MODEL = gguf_bytes(4, 2_000_000)
ROOT = Path(__file__).parents[2]

HOLD = """
import sys
from pathlib import Path
from edged.store import Store
store = Store(Path(sys.argv[1]))
manifest = store.manifest(sys.argv[2])
with store.lease(manifest):
    print(store.folder(manifest), flush=True)
    sys.stdin.read()
"""
PULL = """
import sys
from pathlib import Path
from edged.store import Store
from edged.store.entries import Catalog
from edged.store.pull import HubSettings, pull
hub = HubSettings(endpoint=sys.argv[2], backoff_s=0.01)
print(pull(Store(Path(sys.argv[1])), Catalog(), "org/m", hub=hub, progress=lambda moment: None).version)
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        running.add("org/m", "m-Q4_0.gguf", MODEL)
        running.add("org/m", "LICENSE", b"a licence")
        yield running


def started(program: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )


@contextmanager
def leased_elsewhere(home: Path, name: str) -> Iterator[subprocess.Popen[str]]:
    process = started(HOLD, home, name)
    assert process.stdout is not None
    assert process.stdout.readline() != ""
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_twenty_threads_pull_one_model_with_one_download(hub: Hub, tmp_path: Path) -> None:
    def one(_: int) -> Manifest:
        return pull(Store(tmp_path / "home"), Catalog(), "org/m", hub=hub.settings, progress=ignore)

    with ThreadPoolExecutor(20) as pool:
        versions = {manifest.version for manifest in pool.map(one, range(20))}
    assert len(versions) == 1
    assert hub.sent_bytes("gguf") == len(MODEL)
    assert hub.sent_bytes("LICENSE") == len(b"a licence")


def test_five_processes_pull_one_model_with_one_download(hub: Hub, tmp_path: Path) -> None:
    pulls = [started(PULL, tmp_path / "home", hub.url) for _ in range(5)]
    said = [process.communicate(timeout=60) for process in pulls]
    assert [process.returncode for process in pulls] == [0] * 5, said
    assert len({out for out, _ in said}) == 1
    assert hub.sent_bytes("gguf") == len(MODEL)


def test_two_names_for_one_file_download_it_once(hub: Hub, tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(
            lambda name: pull(store, Catalog(), name, hub=hub.settings, progress=ignore), ["org/m", "org/m:Q4_0"]))
    assert store.names() == ["org/m", "org/m:Q4_0"]
    assert hub.sent_bytes("gguf") == len(MODEL)


def test_garbage_collection_leaves_a_model_that_another_process_serves(tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    manifest = install(store, str(fake_folder(tmp_path / "tiny")))
    with leased_elsewhere(store.home, "tiny") as process:
        with pytest.raises(Conflict, match="in use"):
            store.remove("tiny")
        # Its manifest vanishes all the same, by a hand that knows no leases.
        for path in store.layout.versions("tiny").iterdir():
            path.unlink()
        assert store.collect().blobs == 0
        assert contents(store.layout.model(manifest.digest)) == {"fake.json": b"{}"}
        process.kill()
        process.wait()
        # The lease of a dead process is no lease.
        assert store.collect().blobs == 1


def test_garbage_collection_leaves_what_a_pull_in_another_process_has_so_far(hub: Hub, tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    halfway, go_on = threading.Event(), threading.Event()

    def pace(path: str, at: int) -> None:
        if path == "m-Q4_0.gguf" and at > 1_000_000:
            halfway.set()
            go_on.wait(30)

    hub.faults.pace = pace
    process = started(PULL, store.home, hub.url)
    try:
        assert halfway.wait(30)
        # The licence is here whole, named by no manifest yet; the model is half here.
        assert len(list((store.home / "blobs").iterdir())) == 1
        collected = store.collect(parts_older_than_s=0)
        assert (collected.blobs, collected.parts) == (0, 0)
    finally:
        go_on.set()
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert store.active("org/m") == out.strip()
    assert store.verify() == []
    assert hub.sent_bytes("gguf") == len(MODEL)


def test_collecting_while_others_pull_and_remove_never_breaks_a_model(tmp_path: Path) -> None:
    """Two stores' objects on one home, as two daemons have, at once for a while."""
    home = tmp_path / "home"
    sources = [fake_folder(tmp_path / f"m{number}", step_ms=number % 2) for number in range(4)]
    stop = threading.Event()
    wrong: list[object] = []

    def collector() -> None:
        while not stop.is_set():
            Store(home).collect()

    def user(source: Path) -> None:
        store = Store(home)
        for _ in range(8):
            manifest = install(store, str(source))
            with store.lease(manifest):
                found = contents(store.folder(manifest))
                if found != contents(source):
                    wrong.append(found)
            store.remove(manifest.name)

    threads = [threading.Thread(target=collector) for _ in range(2)]
    for thread in threads:
        thread.start()
    with ThreadPoolExecutor(4) as pool:
        failures = [future.exception() for future in [pool.submit(user, source) for source in sources]]
    stop.set()
    for thread in threads:
        thread.join()
    assert [error for error in failures if error] == []
    assert wrong == []
    store = Store(home)
    store.collect()
    assert list((home / "blobs").iterdir()) == list((home / "models").iterdir()) == []
