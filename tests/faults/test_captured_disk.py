"""A disk that fills up while answers are captured."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.faults.mounts import needs_mounts, run_with

pytestmark = pytest.mark.faults

FILL = """
import errno, json, shutil, sys
from pathlib import Path
from edged.store import captured_files
from edged.store.captured import Captured
from edged.store.captured_files import CapturedFiles
from edged.store.paths import Layout

layout = Layout(Path(sys.argv[1]))
captured_files.MARGIN_BYTES = int(sys.argv[2])
here = CapturedFiles(layout, most_bytes=1 << 30, most_s=1e6)
line = json.dumps({"at": 1.0, "text": "x" * 5000}).encode() + b"\\n"
count = 0
try:
    while True:
        here.append("tiny", line)
        count += 1
except OSError as error:
    assert error.errno == errno.ENOSPC, error
lines = list(Captured(layout).lines("tiny"))
assert lines == [line] * count, (len(lines), count)
print(count, shutil.disk_usage(layout.home).free)
assert here.purge() == count
here.append("tiny", line)
print(len(list(Captured(layout).lines("tiny"))))
"""


@needs_mounts
@pytest.mark.parametrize(("margin_bytes", "least_free"), [(0, 0), (500_000, 500_000)])
def test_a_disk_that_fills_up_keeps_whole_lines_and_goes_on_after_a_purge(
    tmp_path: Path, margin_bytes: int, least_free: int,
) -> None:
    (tmp_path / "disk").mkdir()
    mount = f"mount -t tmpfs -o size=1m tmpfs {shlex.quote(str(tmp_path / 'disk'))}"
    first, after = run_with(mount, FILL, tmp_path / "disk", margin_bytes).splitlines()
    count, free = map(int, first.split())
    assert count > 50
    assert free >= least_free
    assert after == "1"
