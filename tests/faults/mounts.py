"""Running a program with file systems of its own: a small disk, a read-only one. Needs the right to mount."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _can_mount() -> bool:
    try:
        return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


needs_mounts = pytest.mark.skipif(not _can_mount(), reason="this user may not mount file systems")


def run_with(mount: str, program: str, *arguments: object) -> str:
    """The program's output, run by Python after the shell command `mount`, in a mount namespace of its own."""
    python = shlex.join([sys.executable, "-c", program, *map(str, arguments)])
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", f"{mount}\nexec {python}"], cwd=ROOT, capture_output=True, text=True,
        timeout=60, check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
