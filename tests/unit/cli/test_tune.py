"""What `edged tune` says at its end."""

from __future__ import annotations

from typing import Any

import pytest

from edged.cli.tune import _outcome
from edged.daemon.tuning import Report
from edged.types import Tuning

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("options", "told"), [
    ({"key_type": "f16"}, True), ({"kv_unified": True, "ubatch": 128}, True), ({"ubatch": 128}, False), ({}, False),
])
def test_an_option_that_makes_texts_depend_on_each_other_is_told(options: dict[str, Any], told: bool) -> None:
    said = _outcome(Report(defaults={}, tried=[], tuning=Tuning(options=options, gain=1.1)))
    assert ("may depend on the requests beside it" in said) is told
