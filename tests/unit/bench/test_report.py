from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from bench import report
from tests.unit.bench.making import BUSY, run, samples

pytestmark = pytest.mark.unit

PAIR = [
    *samples("decode", "edged", 98, 99, 100, 101, 102),
    *samples("decode", "llama-server", 100, 100, 100, 100, 100),
    *samples("memory", "edged", 400.0, cpu=None),
    *samples("memory", "llama-server", 800.0, cpu=None),
]


def shown(*arguments: object) -> str:
    console = Console(file=StringIO(), width=200)
    report.show(console, *arguments)  # type: ignore[arg-type]
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_table_has_both_medians_the_ratio_its_interval_and_the_goal() -> None:
    text = shown(run(), PAIR)
    row = next(line for line in text.splitlines() if "decode" in line)
    for cell in ("100", "1.000", "0.980 … 1.020", "≥ 0.97", "met"):
        assert cell in row


def test_a_peer_with_goals_of_its_own_is_measured_by_them_alone() -> None:
    own = shown(run(goals={"llama-server": {"decode": 1.5}}), PAIR)
    assert "≥ 1.5" in own
    assert "missed" in own
    assert "0.97" not in own
    assert "goal" in shown(run(goals={"llama-server": {}}), PAIR)
    assert "≥" not in shown(run(goals={"llama-server": {}}), PAIR)


def test_no_cell_is_lost_where_the_output_is_not_a_terminal() -> None:
    console = Console(file=StringIO(), soft_wrap=True, width=report.WIDTH)
    report.show(console, run(), PAIR)
    assert isinstance(console.file, StringIO)
    row = next(line for line in console.file.getvalue().splitlines() if "decode" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "decode, one stream", "tok/s", "100", "100", "1.000", "0.980 … 1.020", "≥ 0.97", "met",
    ]


def test_each_peer_has_a_table_of_its_own() -> None:
    both = [*PAIR, *samples("decode", "llama-server, tuned", 50, 50, 50, 50, 50)]
    ratios = {peer: rows[0].ratio for peer, rows in report.comparisons(both, "edged").items()}
    assert ratios == {"llama-server": 1.0, "llama-server, tuned": 2.0}


def test_only_rounds_that_both_sides_have_are_compared() -> None:
    cut_short = [*samples("decode", "edged", 10, 20, 30), *samples("decode", "llama-server", 10, 10)]
    [row] = report.comparisons(cut_short, "edged")["llama-server"]
    assert (row.rounds, row.ratio) == (2, 1.5)


def test_both_builds_flags_are_printed() -> None:
    sides = {"edged": {"cpu flags": "AVX2 = 1 | OPENMP = 0"}, "llama-server": {"cpu flags": "AVX2 = 1 | OPENMP = 1"}}
    text = shown(run(sides=sides), PAIR)
    assert "edged: cpu flags: AVX2 = 1 | OPENMP = 0" in text
    assert "llama-server: cpu flags: AVX2 = 1 | OPENMP = 1" in text


def test_the_clients_own_cpu_is_printed() -> None:
    assert "client cores, median: 0.02" in shown(run(), PAIR)


def test_a_disturbed_run_says_so_everywhere() -> None:
    disturbed = [*PAIR, *samples("decode", "edged", 1, cpu=BUSY)]
    assert "DISTURBED: during 1 of 11 measurements" in shown(run(), disturbed)
    assert "DISTURBED" in report.section(run(), disturbed)
    assert report.document(run(), disturbed)["noise"]["disturbed samples"] == 1


def test_a_quiet_run_says_nothing_of_the_kind() -> None:
    assert "DISTURBED" not in report.section(run(), PAIR)


def test_too_few_rounds_for_the_confidence_are_said() -> None:
    four = [*samples("decode", "edged", 1, 1, 1, 1), *samples("decode", "llama-server", 1, 1, 1, 1)]
    assert "FEW ROUNDS: intervals hold the true ratio with 87.5% only" in report.section(run(), four)
    five = [*samples("decode", "edged", 1, 1, 1, 1, 1), *samples("decode", "llama-server", 1, 1, 1, 1, 1)]
    assert "FEW ROUNDS" not in report.section(run(), five)


def test_a_quick_run_is_marked_as_no_measure_of_speed() -> None:
    assert "QUICK" in report.section(run(quick=True), PAIR)


def test_complaints_reach_the_log() -> None:
    assert "from a cache" in report.section(run(complaints=["edged: 100 prompt tokens came from a cache"]), PAIR)


def test_everything_is_kept_as_json(tmp_path: Path) -> None:
    path = report.save(tmp_path / "results", run(), PAIR)
    kept = json.loads(path.read_text())
    assert len(kept["samples"]) == len(PAIR)
    assert kept["comparisons"]["llama-server"][0]["verdict"] == "met"
    assert kept["workloads"] == "0123456789ab"


def test_the_log_grows_at_its_end(tmp_path: Path) -> None:
    log = tmp_path / "LOG.md"
    log.write_text("# Log\n")
    report.append(log, run(), PAIR)
    report.append(log, run(when="2030-01-03 00:00 UTC"), PAIR)
    text = log.read_text()
    assert text.startswith("# Log\n\n## 2030-01-02 03:04 UTC, commit abcdef0\n")
    assert text.index("2030-01-02") < text.index("2030-01-03")
    assert "| decode, one stream | tok/s | 100 | 100 | 1.000 | 0.980 … 1.020 | ≥ 0.97 | met |" in text
