"""Keys: compared in constant time, known by their hashes only (T14)."""

from __future__ import annotations

import hmac
from typing import Any

import pytest

from edged.api.auth import Keys
from edged.errors import InvalidApiKey
from edged.settings import hash_key

pytestmark = pytest.mark.unit


def scope(key: str) -> Any:
    return {"type": "http", "headers": [(b"authorization", f"Bearer {key}".encode())], "server": ("127.0.0.1", 8343),
            "client": ("127.0.0.1", 5), "path": "/v1/models", "method": "GET"}


@pytest.mark.parametrize(("key", "good"), [("first", True), ("third", True), ("admin", True), ("fourth", False)])
def test_whichever_key_is_shown_all_are_compared_whole(monkeypatch: pytest.MonkeyPatch, key: str, good: bool) -> None:
    compared: list[tuple[str, str]] = []
    really = hmac.compare_digest

    def compare(shown: str, kept: str) -> bool:
        compared.append((shown, kept))
        return really(shown, kept)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    api, admin = [hash_key(name) for name in ("first", "second", "third")], [hash_key("admin")]
    keys = Keys(api, admin)
    if good:
        assert keys.check(scope(key)).known
    else:
        with pytest.raises(InvalidApiKey):
            keys.check(scope(key))
    assert {kept for _, kept in compared} == {*api, *admin}
    assert {shown for shown, _ in compared} == {hash_key(key)}


def test_no_key_is_kept_in_the_clear() -> None:
    keys = Keys([hash_key("first")], [hash_key("admin")])
    caller = keys.check(scope("first"))
    assert "first" not in repr(caller) + repr(vars(keys))
