"""How long a model stays: catalog, operator, and one version after another."""

from __future__ import annotations

import pytest

from edged.daemon.stay import Stay
from edged.store.entries import ModelEntry

pytestmark = pytest.mark.unit


def stay(*, pin: bool = False, keep_alive_s: float | None = None) -> Stay:
    entry = ModelEntry(name="m", pin=pin, keep_alive_s=keep_alive_s)
    return Stay(lambda: entry, 300.0)


def test_the_operator_goes_over_the_catalog_and_the_catalog_over_the_server() -> None:
    assert stay().keep_alive_s == 300.0
    said = stay(keep_alive_s=10.0, pin=True)
    assert (said.keep_alive_s, said.pinned, said.expires_at(5.0)) == (10.0, True, None)
    said.say(pin=False, keep_alive_s=20.0)
    assert (said.keep_alive_s, said.pinned, said.expires_at(5.0)) == (20.0, False, 25.0)
    said.say(pin=None, keep_alive_s=None)
    assert said.expires_at(5.0) == 25.0


def test_a_retired_version_goes_at_once_and_a_load_calls_it_back() -> None:
    one = stay(keep_alive_s=-1)
    one.retired = True
    assert one.expires_at(5.0) == 5.0
    one.say()
    assert one.expires_at(5.0) is None


@pytest.mark.parametrize(("said", "catalog", "pinned"), [
    (True, False, True), (None, True, True), (None, False, False), (False, True, True), (False, False, False)])
def test_the_pin_is_of_the_version_that_answers_to_the_name(said: bool | None, catalog: bool, pinned: bool) -> None:
    """One that an operator took away was of the old version: the new one is as the catalog says."""
    old, new = stay(pin=catalog), stay(pin=catalog)
    old.say(pin=said, keep_alive_s=7.0)
    new.unpin()
    new.succeed(old)
    assert (new.pinned, new.keep_alive_s) == (pinned, 7.0)
    assert not old.pinned
