"""KV of smaller types, judged by the gate."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.kv_types import compare
from edged.types import LoadSpec

pytestmark = pytest.mark.real


def test_the_gate_tells_what_kv_of_a_smaller_type_loses(smollm2: LoadSpec) -> None:
    found = compare(Path(smollm2.path) / smollm2.file, "q8_0", "q8_0", positions=256)
    assert found.tokens >= 256
    assert 0 < found.kl_divergence < 0.05
    assert found.perplexity_ratio == pytest.approx(1, abs=0.05)
