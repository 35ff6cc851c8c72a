"""What decides whether KV of one load is KV of another."""

from __future__ import annotations

import pytest

from edged.engines.llama_model import rope_of

pytestmark = pytest.mark.unit

LONG = {"phi3.rope.scaling.original_context_length": "4096", "phi3.context_length": "131072"}


def test_a_model_with_factors_for_long_contexts_has_other_kv_when_it_is_loaded_with_one() -> None:
    assert rope_of(LONG, 4096) != rope_of(LONG, 4097)
    assert rope_of(LONG, 2048) == rope_of(LONG, 4096)


def test_any_other_model_has_the_same_at_any_context() -> None:
    assert rope_of({"llama.context_length": "8192"}, 128) == rope_of({"llama.context_length": "8192"}, 8192) == ""
