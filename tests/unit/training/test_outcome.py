from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from training import opened
from training.chain import PLACES
from training.deploy.stage import Deployed, Version
from training.outcome import outcome
from training.run import Run

pytestmark = pytest.mark.unit

GOOD = Version(name="home", version="abcdefabcdef", digest="ab" * 32, engine="ort", precision="int8", size_bytes=9,
               conversion="cpu-int8")
BAD = msgspec.structs.replace(GOOD, version="123456123456", held_back=("task accuracy 50.0%, 90.0% before",))


def opens(folder: Path) -> Run:
    (folder / "home.toml").write_text('name = "home"\nbase = "b"\n[data]\ntrain = ["a"]\n[finetune]\n[deploy]\n')
    run = opened.open_run(folder / "home.toml")
    for stage, file in (("data", "report.txt"), ("evaluate", "table.txt"), ("evaluate", "report.html")):
        (run.folder / stage).mkdir(exist_ok=True)
        (run.folder / stage / file).write_text(f"text of {stage}\n")
    run.mark("data", "d", 1.0, {})
    run.mark("evaluate", "e", 1.0, {})
    return run


def deployed(run: Run, *versions: Version, active: bool = True) -> None:
    (run.folder / "deploy").mkdir(exist_ok=True)
    run.mark("deploy", "x", 1.0, Deployed(versions=versions, active=active, home="/store"))


def test_what_serves_is_told_with_how_to_ask_it_and_how_to_go_back(tmp_path: Path) -> None:
    run = opens(tmp_path)
    deployed(run, GOOD)
    came = outcome(run, tuple(PLACES))
    assert came.good
    assert came.words() == (
        "text of evaluate\n\nhome is served from home@abcdefabcdef (ort int8); `edged run home` asks it, `edged "
        f"rollback home` goes back\n\nreport: {run.folder}/evaluate/report.html\nrun: {run.folder}")


def test_a_version_that_lost_too_much_is_told_by_how_much_and_is_not_good(tmp_path: Path) -> None:
    run = opens(tmp_path)
    deployed(run, BAD, active=False)
    came = outcome(run, tuple(PLACES))
    assert not came.good
    assert "home@123456123456 is kept, not served: task accuracy 50.0%, 90.0% before" in came.words()
    assert "`edged activate home@123456123456` serves it all the same" in came.words()


def test_a_second_conversion_is_kept_beside_the_first(tmp_path: Path) -> None:
    run = opens(tmp_path)
    second = msgspec.structs.replace(GOOD, version="999999999999", precision="Q8_0", engine="llama")
    deployed(run, GOOD, second)
    assert "home@999999999999 (llama Q8_0) is kept beside it" in outcome(run, tuple(PLACES)).words()


def test_a_stage_alone_tells_what_it_made(tmp_path: Path) -> None:
    run = opens(tmp_path)
    deployed(run, BAD)
    came = outcome(run, ("data",))
    assert came.words() == f"text of data\n\nrun: {run.folder}"
    assert came.good
    assert came.deployed is None
