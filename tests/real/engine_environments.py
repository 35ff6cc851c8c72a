"""Engine environments that tests share: installed once, kept between runs in the user's cache folder."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from platformdirs import user_cache_path

from edged.hardware.environment_making import install, state
from edged.hardware.environments import folder_of
from edged.version import VERSION


def installed_once(name: str, packages: Sequence[str]) -> Path:
    """Its home, of which it is `engines/<name>`. One of another edged, or that does not run any more, is made anew."""
    home = user_cache_path("edged-tests") / f"environments-{hashlib.sha256(sys.prefix.encode()).hexdigest()[:8]}"
    home.mkdir(parents=True, exist_ok=True)
    about, why = state(home, name)
    if about is None or why is not None or (about.edged, about.requirements) != (VERSION, tuple(packages)):
        install(home, name, packages, VERSION, print)
    return home


def copied_to(home: Path, name: str, packages: Sequence[str]) -> None:
    """The same in another home, as if that had been moved."""
    folder = folder_of(home, name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder_of(installed_once(name, packages), name), folder, symlinks=True)
