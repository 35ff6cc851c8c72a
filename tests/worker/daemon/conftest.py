"""`rig` makes a router over fake models; whatever it started is gone at the end of the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.worker.daemon.rig import Rig


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Callable[..., Rig]]:
    made: list[Rig] = []
    # Fixtures of the whole session may have a daemon of their own.
    before = {child.pid for child in psutil.Process().children()}

    def make(**options: Any) -> Rig:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Rig(folder, **options))
        return made[-1]

    yield make
    for one in made:
        await one.router.kill()
    assert [child.cmdline() for child in psutil.Process().children() if child.pid not in before] == []
