from __future__ import annotations

import msgspec
import pytest

from edged.api.models import told_apart
from tests.unit.api.fake_router import status

pytestmark = pytest.mark.unit


def test_two_versions_of_a_model_have_two_ids() -> None:
    active, other = status("m"), msgspec.structs.replace(status("m"), version="0f3b")
    told = told_apart([active, other, status("n")])
    assert [one.name for one in told] == ["m", "m@0f3b", "n"]
