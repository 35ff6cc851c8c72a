"""A purge of all that clients said: what can be forgotten is, though the disk refuses some of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edged.cli import upkeep
from edged.errors import Conflict
from tests.unit.api.asgi import ask
from tests.unit.api.fake_router import FakeRouter, app_with, words

pytestmark = pytest.mark.unit


class Capture:
    def __init__(self) -> None:
        self.purged = 0

    async def purge(self, model: str | None = None) -> int:
        self.purged += 1
        return 3


class Refusing(FakeRouter):
    """Its KV files cannot be removed."""

    def __init__(self) -> None:
        super().__init__(words("a"))
        self.capture = Capture()

    async def purge(self) -> int:
        raise Conflict("KV files cannot be removed; they stay")


async def test_captured_answers_go_though_other_files_stay_and_the_operator_hears_of_those(tmp_path: Path) -> None:
    router = Refusing()
    reply = await ask(app_with(router, home=tmp_path), "/edged/v1/purge", {})
    assert reply.error["code"] == "conflict", reply.text
    assert "KV files" in reply.error["message"]
    assert router.capture.purged == 1


def test_without_a_daemon_each_is_purged_before_the_first_refusal_is_told() -> None:
    done: list[str] = []

    def refused() -> int:
        raise PermissionError("no")

    def forget(what: str) -> int:
        done.append(what)
        return 1

    with pytest.raises(PermissionError):
        upkeep._each(refused, lambda: forget("second"), lambda: forget("third"))
    assert done == ["second", "third"]
    assert upkeep._each(lambda: 1, lambda: 2) == [1, 2]
