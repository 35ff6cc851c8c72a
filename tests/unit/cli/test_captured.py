"""Captured answers at a terminal."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.cli import captured
from edged.cli.captured import _shown

pytestmark = pytest.mark.unit


@given(st.text(), st.integers(1, 7))
def test_what_is_shown_is_the_same_json_and_steers_no_terminal(text: str, size: int) -> None:
    line = json.dumps({"content": text}, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    shown = b"".join(_shown(line[at:at + size] for at in range(0, len(line), size)))
    assert json.loads(shown) == json.loads(line)
    assert shown.decode().removesuffix("\n").isprintable()


@pytest.mark.parametrize("sign", ["\x9b", "\x7f", "\u202e", "\u200f", "\U000e0041"])
def test_signs_that_do_not_print_are_escaped(sign: str) -> None:
    (shown,) = _shown([f'{{"content": "a{sign}b"}}\n'.encode()])
    assert shown.isascii()
    assert sign in json.loads(shown)["content"]


@pytest.mark.parametrize(("said", "body"), [(None, {}), ("", {"model": ""}), ("tiny", {"model": "tiny"})])
def test_only_a_purge_that_names_no_model_is_of_all(
    monkeypatch: pytest.MonkeyPatch, said: str | None, body: dict[str, str],
) -> None:
    """As where a script's variable is empty."""
    asked: list[Any] = []

    def post(path: str, sent: dict[str, str], shape: type[captured.Purged]) -> captured.Purged:
        asked.append(sent)
        return shape(0)

    target = SimpleNamespace(running=SimpleNamespace(client=SimpleNamespace(post=post)))
    monkeypatch.setattr(captured, "store_of", lambda _: target)
    captured.purge(said)
    assert asked == [body]
