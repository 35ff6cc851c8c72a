"""`edged quality` through a daemon, whose store the command's user need not be able to read."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from edged.store import Store
from edged.store.lineage import Quality, QualityLimits
from tests.daemon import Daemon

pytestmark = pytest.mark.http

LACKING = Quality(
    reference="fp32", text="calibration 0123456789ab", tokens=6144, kl_divergence=0.3, top1_agreement=0.7,
    perplexity=30.0, reference_perplexity=20.0, lacking=("perplexity ratio 1.500, at most 1.1",),
    limits=QualityLimits(perplexity_ratio=1.1, top1_agreement=0.85, kl_divergence=0.1))


def test_a_version_that_fell_short_is_shown_also_where_nothing_answers_to_its_name(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.pull_fake("tiny")
        store = Store(daemon.home)
        kept = replace(store.manifest("tiny"), name="fresh", quality=LACKING)
        store.publish(kept, activate=False)
        [line] = daemon.json("quality", "fresh")
        assert (line["version"], line["gate"], line["active"]) == (kept.version, "lacking", False)
        assert line["perplexity_ratio"] == pytest.approx(1.5)
        assert [line["gate"] for line in daemon.json("quality", "tiny")] == ["not measured"]
        told = daemon.edged("quality", "fresh")
        assert f"{kept.version} lacks: perplexity ratio 1.500, at most 1.1" in told.stdout
        assert daemon.json("show", "fresh")["active"] is None
        assert daemon.edged("quality", "nothing").returncode == 3
