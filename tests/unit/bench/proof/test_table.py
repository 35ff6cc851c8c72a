from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from bench import scale
from bench.client import BenchError
from bench.proof import plot, table
from bench.proof.record import Record
from tests.unit.bench.proof.making import record, samples, scene

pytestmark = pytest.mark.unit


def kept() -> Record:
    return record(
        scene("bandwidth", samples("machine", "gb-s", 20)),
        scene("single", samples("edged", "decode", 120, 130, 125), samples("llama-tuned", "decode", 100, 100, 100)),
        scene("structured", samples("edged", "seconds", 1, 1, 1), samples("llama-default", "seconds", 4, 4, 4),
              failed={"llama-tuned": "BenchError: gone"}))


def cell(title: str, head: str) -> str:
    [line] = [line for line in map(table.cells, table.judged(kept())) if line[0] == title]
    return line[table.HEAD.index(head)]


def test_a_line_names_the_peer_the_ratio_the_goal_and_the_verdict() -> None:
    title = "decode, Q4_0"
    assert [cell(title, head) for head in ("best peer", "ratio or figure", "goal", "verdict")] == [
        "llama-server Q4_0, tuned", "1.25 x", "≥ 1.1 x", "met"]


def test_scenes_that_were_not_run_and_sides_that_failed_are_said() -> None:
    said = table.remarks(kept())
    assert any(one.startswith("not run: streams, ") for one in said)
    assert any("gone" in one for one in said)


def test_the_section_for_the_log_holds_every_row_every_form_and_the_bandwidth() -> None:
    text = table.section(kept())
    assert text.count("\n| ") == 2 + len(table.judged(kept())) + len(kept().forms)
    assert "memory bandwidth: 20.0 GB/s" in text


def test_a_quick_run_says_so() -> None:
    assert table.remarks(record(quick=True))[0].startswith("QUICK")


def test_the_terminal_gets_the_same_rows() -> None:
    said = io.StringIO()
    table.show(Console(file=said, width=200), kept())
    assert "JSON by schema and tool calls" in said.getvalue()


def test_bars_show_how_many_times_as_fast_edged_is_whichever_way_is_better() -> None:
    speeds = {one.row.title: plot.speed(one) for one in table.judged(kept()) if one.value and one.row.of == "ratio"}
    assert speeds["JSON by schema and tool calls"] == (4.0, 1 / 0.6)
    assert speeds["decode, Q4_0"] == (1.25, 1.1)


def test_the_same_figures_draw_the_same_file(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.svg"):
        assert plot.draw(kept(), tmp_path / name) == 2
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def measured(**changed: float) -> scale.Measured:
    fields: dict[str, float] = {
        "cores": 2, "parameters": 134.5e6, "token_bytes": 100e6, "bandwidth": 20e9, "computed_s": 500, "decode_s": 100,
        "eight_s": 250, "daemon_us": 50, "kv_bytes": 46_080, "worker_mib": 500, "load_ms": 1200, "series": 300,
        "metrics_bytes": 30_000}
    return scale.Measured(**{**fields, **changed})  # type: ignore[arg-type]


def test_a_step_of_one_row_here_takes_what_was_measured() -> None:
    one = measured()
    here, small = scale.boxes(one)[0], scale.models(one)[0]
    assert scale.rate(one, here, small, 1) == pytest.approx(one.decode_s)


def test_more_rows_and_more_bandwidth_are_never_slower() -> None:
    one = measured()
    for model in scale.models(one):
        for rows in (1, 8, 64):
            rates = [scale.rate(one, box, model, rows) for box in scale.boxes(one)]
            assert rates == sorted(rates)
        assert scale.rate(one, scale.boxes(one)[0], model, 8) >= scale.rate(one, scale.boxes(one)[0], model, 1)


def test_a_dear_daemon_is_what_gives_first() -> None:
    one = measured(daemon_us=100_000)
    assert scale._first(one, scale.boxes(one)[-1], scale.models(one)[0]).startswith("the daemon's one process, at 10 ")


def test_the_page_is_written_of_a_whole_record_and_refuses_one_with_gaps() -> None:
    whole = record(
        scene("bandwidth", samples("machine", "gb-s", 20)),
        scene("single", [one for figure in ("decode", "prefill") for one in samples("edged", figure, 100)]),
        scene("streams", [one for figure in ("rate", "pss-mib") for one in samples("edged", figure, 300)]),
        scene("daemon", [one for figure in ("daemon-us", "series", "metrics-bytes")
                         for one in samples("edged-fake", figure, 60)]),
        scene("rotation", samples("edged-many", "load-ms", 1000)))
    page = scale.page(whole, scale.gather(whole))
    assert page.count("\n| 135M, as measured |") == page.count("\n| 8B in 4 bits |") == 5
    with pytest.raises(BenchError, match="rotation"):
        scale.gather(record(*[one for one in whole.scenes.values() if one.name != "rotation"]))
