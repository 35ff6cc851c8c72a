"""Full disks and disks that cannot be written (PROMISES R3, R10)."""

from __future__ import annotations

import errno
import os
import shlex
from pathlib import Path

import pytest

from edged.errors import InsufficientStorage
from edged.store import Store, files
from edged.store.entries import Catalog
from edged.store.files import Operation
from edged.store.pull import pull
from tests.faults.mounts import needs_mounts, run_with
from tests.hub import Hub
from tests.models import contents, fake_folder, gguf_bytes, ignore, install

pytestmark = pytest.mark.faults

FILL = """
import os, shutil, sys
from pathlib import Path
from edged.errors import InsufficientStorage
from edged.store import Store, space
from edged.store.entries import Catalog
from edged.store.pull import HubSettings, pull

def one(name):
    hub = HubSettings(endpoint=sys.argv[2], backoff_s=0.01)
    return pull(store, Catalog(), name, hub=hub, progress=lambda moment: None)

store = Store(Path(sys.argv[1]))
space.MARGIN_BYTES = 0
one("org/small")
free = shutil.disk_usage(store.home).free
try:
    one("org/big")
except InsufficientStorage as error:
    print("before the first byte:", error.message)
# As if another program took the room after it was asked for.
space.MARGIN_BYTES = -(1 << 40)
try:
    one("org/big")
except InsufficientStorage as error:
    print("in the middle:", error.message)
assert shutil.disk_usage(store.home).free >= free - 65536, (shutil.disk_usage(store.home).free, free)
assert store.names() == ["org/small"] and store.verify() == []
print("fits:", one("org/fits").name, store.verify())
"""
READ = """
import sys
from pathlib import Path
from edged.errors import EdgedError
from edged.store import Store
from edged.store.entries import Catalog
from edged.store.pull import HubSettings, pull
store = Store(Path(sys.argv[1]))
manifest = store.manifest("tiny")
with store.lease(manifest):
    print(store.names(), (store.folder(manifest) / "fake.json").read_text(), store.verify())
try:
    pull(store, Catalog(), sys.argv[2], hub=HubSettings(), progress=lambda moment: None)
except EdgedError as error:
    print(error.message)
"""


@needs_mounts
def test_a_disk_that_fills_up_gives_its_space_back_and_the_next_pull_works(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    with Hub() as hub:
        hub.add("org/small", "m-Q4_0.gguf", gguf_bytes(1, 10_000))
        hub.add("org/big", "LICENSE", b"l" * 1_000_000)
        hub.add("org/big", "m-Q4_0.gguf", gguf_bytes(2, 9_000_000))
        hub.add("org/fits", "m-Q4_0.gguf", gguf_bytes(3, 3_000_000))
        mount = f"mount -t tmpfs -o size=6m tmpfs {shlex.quote(str(tmp_path / 'disk'))}"
        said = run_with(mount, FILL, tmp_path / "disk" / "home", hub.url)
    assert "before the first byte: the pull needs 10.0 MB" in said
    assert "in the middle: the disk of the store became full" in said
    assert "fits: org/fits []" in said


@needs_mounts
def test_a_read_only_store_still_serves_and_says_why_it_cannot_pull(tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    store.folder(install(store, str(fake_folder(tmp_path / "tiny"))))
    store.collect()
    quoted = shlex.quote(str(store.home))
    mount = f"mount --bind {quoted} {quoted}\nmount -o remount,ro,bind {quoted}"
    said = run_with(mount, READ, store.home, fake_folder(tmp_path / "other"))
    assert said.splitlines()[0] == "['tiny'] {} []"
    assert "cannot be written" in said.splitlines()[1]


@pytest.mark.parametrize("kind", ["create", "write", "sync", "rename", "folder"])
def test_a_disk_that_is_full_at_any_kind_of_operation_leaves_no_partial_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str,
) -> None:
    store = Store(tmp_path / "home")
    source = fake_folder(tmp_path / "tiny")
    (source / "LICENSE").write_text("l")
    made = 0

    def full(operation: Operation) -> None:
        nonlocal made
        made += operation.kind == kind
        if operation.kind == kind and made >= (2 if kind == "write" else 1):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(files, "watch", full)
        with pytest.raises(InsufficientStorage, match="edged gc"):
            install(store, str(source))
    assert store.names() == []
    assert [path for folder in ("blobs", "tmp") for path in (store.home / folder).iterdir()] == []
    assert contents(store.folder(install(store, str(source)))) == contents(source)


def test_progress_that_raises_ends_the_pull_and_keeps_what_can_be_continued(tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    with Hub() as hub:
        hub.add("org/m", "m-Q4_0.gguf", gguf_bytes(1, 1_000_000))
        hub.faults.drop_each["m-Q4_0.gguf"] = 300_000
        told = 0

        def stop(moment: object) -> None:
            nonlocal told
            told += 1
            if len(hub.requests) > 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            pull(store, Catalog(), "org/m", hub=hub.settings, progress=stop)
        pull(store, Catalog(), "org/m", hub=hub.settings, progress=ignore)
    assert store.verify() == []
