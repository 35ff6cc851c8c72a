"""KV files that a power cut, a bad flash cell, an upgrade or another hand has changed are never taken for good ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edged.store.kv import KvFolder, Outcome
from edged.store.kv_format import Identity, token_bytes
from tests.faults.mounts import needs_mounts, run_with

pytestmark = pytest.mark.faults

MODEL = "c" * 64
IDENTITY = Identity(model=MODEL, state_format="fake-1", scope="", adapter="", tokens=token_bytes(range(50)))
PARTS = [bytes(range(256)) * 40, b"\x07" * 333, b"x" * 4096]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[KvFolder, Path, bytes]:
    folder = KvFolder(tmp_path_factory.mktemp("kv") / "kv", most_bytes=1 << 20, write_bytes_per_day=1 << 30, ttl_s=1e6)
    assert folder.write(IDENTITY, [memoryview(part) for part in PARTS], purges="") is Outcome.WRITTEN
    path = folder.of_model(MODEL)[0].path
    return folder, path, path.read_bytes()


def taken(folder: KvFolder, path: Path, whole: bytes, damaged: bytes) -> bool:
    """Whether anything of the damaged file was served: found by its header before the damage, and after it."""
    path.write_bytes(whole)
    found = folder.of_model(MODEL)
    assert len(found) == 1
    path.write_bytes(damaged)
    served = [folder.read(found[0])]
    path.write_bytes(damaged)
    served += [folder.read(one) for one in folder.of_model(MODEL)]
    assert not path.exists(), "a damaged file stays"
    return any(parts is not None for parts in served)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_is_served(whole: tuple[KvFolder, Path, bytes], data: st.DataObject) -> None:
    folder, path, good = whole
    at = data.draw(st.integers(0, len(good) - 1))
    match data.draw(st.sampled_from(["cut", "zeros", "flip", "swap", "grow", "page"])):
        case "cut":
            damaged = good[:at]
        case "zeros":
            damaged = good[:at] + bytes(len(good) - at)
        case "page":
            start = at - at % 4096
            damaged = good[:start] + bytes(len(good[start:start + 4096])) + good[start + 4096:]
        case "flip":
            damaged = good[:at] + bytes([good[at] ^ (1 << data.draw(st.integers(0, 7)))]) + good[at + 1:]
        case "swap":
            other = data.draw(st.integers(0, len(good) - 1))
            changed = bytearray(good)
            changed[at], changed[other] = changed[other], changed[at]
            damaged = bytes(changed)
        case _:
            damaged = good + data.draw(st.binary(min_size=1, max_size=100))
    if damaged != good:
        assert not taken(folder, path, good, damaged)


def test_each_bit_of_the_head_counts(whole: tuple[KvFolder, Path, bytes]) -> None:
    folder, path, good = whole
    for bit in range(64 * 8):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        assert not taken(folder, path, good, bytes(damaged)), bit


def test_an_empty_file_as_a_power_cut_leaves_it(whole: tuple[KvFolder, Path, bytes]) -> None:
    folder, path, good = whole
    assert not taken(folder, path, good, b"")


def test_a_file_that_goes_away_is_no_error(whole: tuple[KvFolder, Path, bytes]) -> None:
    folder, path, good = whole
    path.write_bytes(good)
    found = folder.of_model(MODEL)[0]
    path.unlink()
    assert folder.read(found) is None


MANY_WRITERS = """
import os, sys
from pathlib import Path
from edged.store.kv import KvFolder
from edged.store.kv_format import Identity, token_bytes

folder = KvFolder(Path(sys.argv[1]), most_bytes=60_000, write_bytes_per_day=400_000, ttl_s=1e6)
children = []
for writer in range(4):
    if (child := os.fork()) == 0:
        for number in range(25):
            one = Identity(model=str(writer) * 64, state_format="f", scope="", adapter="",
                           tokens=token_bytes([writer, number]))
            folder.write(one, [memoryview(bytes([writer]) * 9000)], purges="")
            assert folder.held_bytes() <= 60_000, folder.held_bytes()
        os._exit(0)
    children.append(child)
codes = [os.waitpid(child, 0)[1] for child in children]
assert codes == [0, 0, 0, 0], codes
assert folder.left_today_bytes() < 9_200, folder.left_today_bytes()
for writer in range(4):
    for found in folder.of_model(str(writer) * 64):
        parts = folder.read(found)
        assert parts is not None and bytes(parts[0]) == bytes([writer]) * 9000
print("held", len(list(Path(sys.argv[1]).rglob("*.kv"))))
"""


def test_several_workers_write_at_once_and_keep_the_bounds_together(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", MANY_WRITERS, str(tmp_path / "kv")], capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["held", "6"]


FULL_DISK = """
import sys, shutil
from pathlib import Path
from edged.store import space
from edged.store.kv import KvFolder, Outcome
from edged.store.kv_format import Identity, token_bytes

space.MARGIN_BYTES = -(1 << 40)  # as if another program took the room after it was asked for
folder = KvFolder(Path(sys.argv[1], "kv"), most_bytes=1 << 30, write_bytes_per_day=1 << 30, ttl_s=1e6)
def one(number):
    return Identity(model="d" * 64, state_format="f", scope="", adapter="", tokens=token_bytes([number]))
assert folder.write(one(1), [memoryview(bytes(100_000))], purges="") is Outcome.WRITTEN
before = shutil.disk_usage(sys.argv[1]).free
try:
    folder.write(one(2), [memoryview(bytes(8 << 20))], purges="")
except OSError as error:
    print(error.strerror)
assert shutil.disk_usage(sys.argv[1]).free >= before - 16384
assert [found.header.identity.token_list() for found in folder.of_model("d" * 64)] == [[1]]
"""


@needs_mounts
def test_a_disk_that_becomes_full_keeps_what_was_there(tmp_path: Path) -> None:
    said = run_with(f"mount -t tmpfs -o size=4m none {tmp_path}", FULL_DISK, tmp_path)
    assert said.strip() == "No space left on device"


READ_ONLY = """
import sys
from pathlib import Path
from edged.store.kv import KvFolder
from edged.store.kv_format import Identity, token_bytes

folder = KvFolder(Path(sys.argv[1]), most_bytes=1 << 20, write_bytes_per_day=1 << 30, ttl_s=1e6)
(found,) = folder.of_model("c" * 64)
print(bytes(folder.read(found)[0]).decode())
try:
    folder.write(Identity(model="c" * 64, state_format="f", scope="", adapter="", tokens=b""), [], purges="")
except OSError as error:
    print(error.strerror)
"""


@needs_mounts
def test_a_read_only_disk_still_gives(tmp_path: Path) -> None:
    root = tmp_path / "kv"
    folder = KvFolder(root, most_bytes=1 << 20, write_bytes_per_day=1 << 30, ttl_s=1e6)
    folder.write(IDENTITY, [memoryview(b"kept")], purges="")
    where = os.fspath(tmp_path)
    said = run_with(f"mount --bind {where} {where}\nmount -o remount,bind,ro {where}", READ_ONLY, root)
    assert said.splitlines() == ["kept", "Read-only file system"]
