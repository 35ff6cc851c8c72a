"""What `edged ps` and `edged show` tell of a model's memory."""

from __future__ import annotations

from typing import Any

import pytest

from edged.cli.loaded import memory_told
from edged.cli.show import kv_told
from edged.daemon.status import ModelState, ModelStatus

pytestmark = pytest.mark.unit


def status(**said: Any) -> ModelStatus:
    fields: dict[str, Any] = {
        "name": "m", "version": "v", "digest": "d", "engine": "llama", "precision": "Q4", "size": 1, "parameters": None,
        "context": 8192, "device": "cpu", "state": ModelState.READY, "pinned": False, "keep_alive_s": 1.0,
        "idle_s": None, "running": 0, "waiting": 0, "resident_bytes": 1, "kv_used_tokens": 1000, "kv_tokens": 65536,
        "load_s": 0.84, "rows": 8, "restarts": 0, "alias_of": None, "created": 0.0, "error": None,
        "kv_bytes": 65536 * 17640}
    return ModelStatus(**fields | said)


def test_kv_is_told_by_token_by_row_and_in_all_with_what_is_held_and_the_time_of_the_load() -> None:
    assert memory_told(status()) == (
        "loaded in 0.8 s; KV 17.6 kB a token, 17.6 MB held now, grows to 145 MB a row of 8192 tokens and 1.2 GB in all "
        "8 rows")


def test_rows_that_share_a_pool_grow_together_to_no_more_than_the_pool() -> None:
    told = memory_told(status(kv_tokens=8192, kv_bytes=8192 * 17640))
    assert told is not None
    assert told.endswith("grows to 145 MB a row of 8192 tokens and 145 MB in all 8 rows")


def test_a_model_without_kv_tells_its_load_and_one_that_is_not_loaded_tells_nothing() -> None:
    assert memory_told(status(kv_bytes=0, kv_tokens=0)) == "loaded in 0.8 s"
    assert memory_told(status(load_s=None, state=ModelState.ABSENT)) is None
    assert kv_told(status(kv_bytes=0, kv_tokens=0)) is None


def test_show_tells_what_contexts_take_up_to_the_models_own() -> None:
    assert kv_told(status()) == "17.6 kB a token: 18.1 MB for 1024, 72.3 MB for 4096, 145 MB for 8192"
    assert kv_told(status(context=512)) == "17.6 kB a token: 9.0 MB for 512"
