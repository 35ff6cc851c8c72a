"""Exports that are killed at any operation, and a disk that is full: the folder is there whole, or not at all."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edged.store import Store
from edged.store.export import export
from tests.faults.mounts import needs_mounts, run_with
from tests.models import contents, gguf_bytes, ignore, install

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]

#: A child for each count that dies by SIGKILL before that operation on the export; the first that goes through is the
#: last. Prints for each how it ended, and whether its folder was there.
KILL = """
import os, signal, sys
from pathlib import Path
from edged.store import Store, files
from edged.store.export import export

store, top = Store(Path(sys.argv[1])), Path(sys.argv[2])
manifest = store.manifest("m-Q4_0")
store.folder(manifest)
for count in range(1, 100):
    child = os.fork()
    if child == 0:
        made = 0
        def watch(operation):
            global made
            made += 1
            if made == count:
                os.kill(os.getpid(), signal.SIGKILL)
        files.watch = watch
        export(store, manifest, top / str(count), lambda moment: None)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(count, code, (top / str(count)).exists())
    if code == 0:
        break
"""
FILL = """
import shutil, sys
from pathlib import Path
from edged.errors import InsufficientStorage
from edged.store import Store, space
from edged.store.export import export

store, to = Store(Path(sys.argv[1])), Path(sys.argv[2])
manifest = store.manifest("m-Q4_0")
space.MARGIN_BYTES = 0
try:
    export(store, manifest, to, lambda moment: None)
except InsufficientStorage as error:
    print("before the first byte:", error.message)
# As if another program took the room after it was asked for.
space.MARGIN_BYTES = -(1 << 40)
free = shutil.disk_usage(to.parent).free
try:
    export(store, manifest, to, lambda moment: None)
except InsufficientStorage as error:
    print("in the middle:", error.message)
assert list(to.parent.iterdir()) == [] and shutil.disk_usage(to.parent).free == free
print("fits:", [path.name for path in export(store, store.manifest("small-Q4_0"), to, lambda moment: None)])
"""


def with_model(tmp_path: Path, name: str, size: int) -> Store:
    store = Store(tmp_path / "home")
    (tmp_path / f"{name}.gguf").write_bytes(gguf_bytes(1, size))
    install(store, str(tmp_path / f"{name}.gguf"))
    return store


def test_killed_at_any_operation_the_export_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    store = with_model(tmp_path, "m-Q4_0", 3_000_000)
    top = tmp_path / "exports"
    done = subprocess.run([sys.executable, "-c", KILL, str(store.home), str(top)], cwd=ROOT, text=True,
                          capture_output=True, timeout=60, check=True)
    ends = [line.split() for line in done.stdout.splitlines()]
    assert len(ends) > 4
    assert [code for _, code, _ in ends] == [str(-signal.SIGKILL)] * (len(ends) - 1) + ["0"]
    for count, _, there in ends:
        if there == "True":
            assert contents(top / count) == {"m-Q4_0.gguf": gguf_bytes(1, 3_000_000)}
        else:
            export(store, store.manifest("m-Q4_0"), top / count, ignore)
    assert sorted(path.name for path in top.iterdir()) == sorted(count for count, _, _ in ends)


@needs_mounts
def test_a_disk_that_fills_up_gives_its_space_back(tmp_path: Path) -> None:
    store = with_model(tmp_path, "m-Q4_0", 9_000_000)
    with_model(tmp_path, "small-Q4_0", 1_000_000)
    (tmp_path / "disk").mkdir()
    said = run_with(f"mount -t tmpfs -o size=4m tmpfs {shlex.quote(str(tmp_path / 'disk'))}", FILL, store.home,
                    tmp_path / "disk" / "out")
    assert "before the first byte: the export needs 9.0 MB" in said
    assert "in the middle: the disk became full" in said
    assert "fits: ['small-Q4_0.gguf']" in said
