"""edged against its own contract, every endpoint and field: nothing is dropped in silence and nothing fails. With the
fake engine, which writes words without sense; bench/CONFORMANCE.md has a real model, and edged beside its peers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest

from bench.conformance.outcome import Verdict
from bench.conformance.server import Server
from bench.conformance.suite import run
from tests.http.conftest import Daemon

pytestmark = pytest.mark.http

#: Words without sense are no JSON that ends, and vectors by chance do not know what is alike.
NEEDS_A_MODEL = {"response_format: json_object", "input: a string, a list", "documents"}


def test_nothing_is_dropped_in_silence_and_nothing_fails(start: Callable[..., Daemon]) -> None:
    with closing(Server(start().base_url, "tiny", 16384, "vectors", "judge")) as server:
        rows = run(server)
    bad = [f"{row.area} {row.name}: {row.verdict}, {row.note}" for row in rows
           if row.verdict in (Verdict.SILENT, Verdict.BROKEN) and row.name not in NEEDS_A_MODEL]
    assert not bad, "\n".join(bad)
    assert sum(row.verdict is Verdict.WORKS for row in rows) > 80
