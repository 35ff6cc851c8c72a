"""The environment of Python programs that are too heavy for edged's own, made once and kept in the user's cache."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from platformdirs import user_cache_path

SCRIPTS = Path(__file__).parents[1] / "clients"
REQUIREMENTS = SCRIPTS / "requirements.txt"


def environment() -> Path:
    """Its folder of programs. One that was left unfinished is made anew."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = user_cache_path("edged-tests") / f"clients-{digest}"
    ready = folder / "ready"
    if not ready.exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--requirement",
                        str(REQUIREMENTS)], check=True)
        ready.touch()
    return folder / "bin"
