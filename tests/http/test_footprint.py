from __future__ import annotations

from collections.abc import Callable

import httpx
import psutil
import pytest

from tests.http.conftest import Daemon

pytestmark = pytest.mark.http

MIB = 1024 * 1024


def test_a_daemon_without_a_loaded_model_stays_small(start: Callable[..., Daemon]) -> None:
    idle = start()
    with httpx.Client(base_url=idle.base_url) as client:
        for path in ("/v1/models", "/metrics", "/edged/v1/status", "/nowhere") * 50:
            client.get(path)
    assert psutil.Process(idle.pid).memory_info().rss <= 64 * MIB
