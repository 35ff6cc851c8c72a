"""`python -m converters` with played stages: what it prints, cancelling, stages that die, full disks, several jobs."""

from __future__ import annotations

import os
import resource
import shlex
import signal
import subprocess
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from edged.store import Store, job_folders
from edged.store.entries import JobFailed, JobLine, JobProgress
from tests.faults.conversions import (
    ALL,
    SPEC,
    asked,
    begun,
    check_clean,
    check_done,
    ended,
    kept,
    started,
    trace_of,
)
from tests.faults.mounts import needs_mounts, run_with

pytestmark = pytest.mark.faults

UNMERGED = [stage for stage in ALL if stage != "merge"]

FILL = """
import os, shutil, subprocess, sys
from pathlib import Path
from tests.faults.conversions import asked, check_done, ended, kept, started
from edged.store import Store
from tests.faults.stand_in_conversion import FILE
from tests.models import gguf_bytes

home = Path(sys.argv[1])
folder = asked(home)
free = shutil.disk_usage(home).free
code, lines = ended(started(folder, CONVERSION_BYTES="9000000"))
print(code, lines[-1].error.code, lines[-1].error.message)
assert shutil.disk_usage(home).free >= free - 65536, (shutil.disk_usage(home).free, free)
assert Store(home).names() == [] and kept(folder) == {"spec.json", "result.json", "log.txt"}
folder = asked(home)
code, lines = ended(started(folder, CONVERSION_BYTES="1500000"))
check_done(home, folder, {FILE: gguf_bytes(1, 1500000), "LICENSE": b"a licence"})
print("fits:", code, lines[-1].manifest.name)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def folder(home: Path) -> Path:
    return asked(home)


def failed(lines: list[JobLine]) -> JobFailed:
    assert lines[-1].error is not None
    return lines[-1].error


def progress(lines: list[JobLine]) -> list[JobProgress]:
    return [line.progress for line in lines if line.progress is not None]


def wait_for(folder: Path, stage: str) -> None:
    deadline_s = time.monotonic() + 30
    trace = trace_of(folder)
    while not (trace.exists() and stage in trace.read_text().split()):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def children_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_it_tells_its_stages_and_last_the_version(home: Path, folder: Path) -> None:
    code, lines = ended(started(folder))
    assert code == 0
    assert lines[-1].manifest == Store(home).manifest("m")
    assert list(dict.fromkeys(moment.stage for moment in progress(lines) if moment.stage in ALL)) == ALL
    assert progress(lines)[-1].stage == "done"
    notes = [moment.note for moment in progress(lines) if moment.note]
    assert "is active: perplexity ratio 1.100, top-1 agreement 90.0%" in notes[-1]
    assert "against fp32 on llama.cpp" in notes[-1]
    check_done(home, folder)


def test_what_libraries_print_goes_to_the_log(folder: Path) -> None:
    code, lines = ended(started(folder, CONVERSION_DOES="convert=print"))
    assert (code, len(lines) > 10) == (0, True)
    log = (folder / "log.txt").read_text()
    assert '{"manifest": "of a library"}' in log
    assert "native words" in log
    assert "stage convert" in log
    assert "OMP_NUM_THREADS" in log
    assert "hf_canary" not in log


def test_the_stages_run_behind_all_others(folder: Path) -> None:
    process = started(folder, CONVERSION_DOES="convert=hang")
    wait_for(folder, "convert")
    [stage] = children_of(process)
    assert stage.nice() == 10
    process.terminate()
    ended(process)


def test_a_result_that_falls_short_is_kept_and_not_active_until_somebody_accepts_the_loss(
    home: Path, folder: Path,
) -> None:
    code, lines = ended(started(folder, CONVERSION_LACKS="top-1 agreement 60 %, at least 85 %"))
    manifest = lines[-1].manifest
    assert code == 0
    assert manifest is not None
    assert manifest.quality is not None
    assert not manifest.quality.passed
    assert "is kept and not active, it falls short of what its precision is held to: top-1 agreement 60 %" in str(lines)
    assert Store(home).names() == []
    accepting = asked(home, msgspec.structs.replace(SPEC, accept_loss=True))
    code, lines = ended(started(accepting, CONVERSION_LACKS="top-1 agreement 60 %, at least 85 %"))
    assert Store(home).active("m") == manifest.version
    accepted = Store(home).manifest("m").quality
    assert accepted is not None
    assert accepted.accepted_loss
    assert "its loss is accepted: top-1 agreement 60 %" in str(lines)


def test_what_is_not_to_be_activated_leaves_what_serves_as_it_is(home: Path) -> None:
    folder = asked(home, msgspec.structs.replace(SPEC, activate=False))
    code, lines = ended(started(folder))
    assert code == 0
    assert "is kept and not active, as asked" in str(lines)
    assert Store(home).names() == []


def test_cancelled_it_leaves_what_was_asked_and_the_log(home: Path, folder: Path) -> None:
    process = started(folder, CONVERSION_DOES="reference=hang")
    wait_for(folder, "reference")
    children = children_of(process)
    process.terminate()
    assert ended(process)[0] == 128 + signal.SIGTERM
    assert kept(folder) == {"spec.json", "result.json", "log.txt"}
    told = job_folders.result_of(folder)
    assert told is not None
    assert told.state == "cancelled"
    assert job_folders.unfinished(Store(home).layout) == []
    assert not any(child.is_running() for child in children)
    check_clean(Store(home))


def test_cancelled_while_it_waits_it_leaves_the_one_that_runs_alone(home: Path, folder: Path) -> None:
    first = started(folder, CONVERSION_DOES="convert=hang")
    wait_for(folder, "convert")
    second = started(folder)
    assert second.stdout is not None
    assert b'"waiting"' in second.stdout.readline()
    second.terminate()
    assert ended(second)[0] == 128 + signal.SIGTERM
    assert (folder / "merge").is_dir()
    assert job_folders.result_of(folder) is None
    first.terminate()
    ended(first)


@pytest.mark.parametrize("how", ["ctrl-C", "nobody reads"])
def test_broken_off_it_goes_on_where_it_was(home: Path, folder: Path, how: str) -> None:
    process = started(folder, CONVERSION_DOES="reference=hang" if how == "ctrl-C" else "")
    if how == "ctrl-C":
        wait_for(folder, "reference")
        os.killpg(process.pid, signal.SIGINT)
        assert ended(process)[0] == 128 + signal.SIGINT
        assert begun(folder) == ["source", "merge", "convert", "reference"]
        assert job_folders.unfinished(Store(home).layout) == [SPEC]
        code, lines = ended(started(folder))
        assert begun(folder) == ["reference", "publish", "gate", "activate"]
        assert any("goes on with reference" in (moment.note or "") for moment in progress(lines))
    else:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        process.stderr.close()
        assert process.wait(30) == 1
        assert job_folders.unfinished(Store(home).layout) == [SPEC]
        code, _ = ended(started(folder))
    assert code == 0
    check_done(home, folder)


@pytest.mark.parametrize(("what", "code", "words"), [
    ("sigkill", "insufficient_memory", r"stage convert was killed \(SIGKILL\), perhaps because memory ran out"),
    ("abort", "insufficient_memory", r"stage convert was killed \(SIGABRT\)"),
    ("memory", "insufficient_memory", "memory ran out in stage convert"),
    ("raise", "internal_error", "stage convert failed: ValueError: the weights are upside down"),
    ("exit", "internal_error", "stage convert ended with exit code 3"),
])
def test_a_stage_that_dies_is_one_clear_error_and_a_retry_goes_on_with_it(
    home: Path, folder: Path, what: str, code: str, words: str,
) -> None:
    exit_code, lines = ended(started(folder, CONVERSION_DOES=f"convert={what}"))
    error = failed(lines)
    assert (exit_code, error.code) == (1, code)
    assert pytest.raises(AssertionError, match=words).matches(AssertionError(error.message))
    assert "ask for it again" in error.message or "log" in error.message
    assert kept(folder) == {"spec.json", "result.json", "log.txt", "source", "merge"}
    assert job_folders.unfinished(Store(home).layout) == []
    check_clean(Store(home))
    begun(folder)
    assert ended(started(asked(home)))[0] == 0
    assert begun(folder) == ALL[2:]
    check_done(home, folder)


@pytest.mark.parametrize(("what", "code"), [("disk", "insufficient_storage"), ("refuse", "refused_file")])
def test_after_an_error_that_a_retry_does_not_mend_nothing_is_left(
    home: Path, folder: Path, what: str, code: str,
) -> None:
    exit_code, lines = ended(started(folder, CONVERSION_DOES=f"convert={what}"))
    assert (exit_code, failed(lines).code) == (1, code)
    assert kept(folder) == {"spec.json", "result.json", "log.txt"}
    check_clean(Store(home))
    assert ended(started(asked(home)))[0] == 0
    check_done(home, folder)


def test_a_memory_limit_is_a_clear_error(home: Path, folder: Path) -> None:
    process = started(folder, CONVERSION_DOES="convert=grow")
    resource.prlimit(process.pid, resource.RLIMIT_AS, (1 << 30, 1 << 30))
    code, lines = ended(process)
    assert (code, failed(lines).code) == (1, "insufficient_memory")
    assert kept(folder) == {"spec.json", "result.json", "log.txt", "source", "merge"}


@needs_mounts
def test_a_disk_that_fills_up_gives_its_space_back_and_a_retry_works(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    mount = f"mount -t tmpfs -o size=8m tmpfs {shlex.quote(str(tmp_path / 'disk'))}"
    said = run_with(mount, FILL, tmp_path / "disk" / "home").splitlines()
    assert said[0].startswith("1 insufficient_storage the disk of the store became full in stage convert")
    assert said[1] == "fits: 0 m"


def test_one_conversion_at_a_time_runs_on_a_store(home: Path, folder: Path) -> None:
    other = asked(home, msgspec.structs.replace(SPEC, name="other", adapters=()))
    first = started(folder, CONVERSION_DOES="convert=hang")
    wait_for(folder, "convert")
    second = started(other)
    assert second.stdout is not None
    waits = msgspec.json.decode(second.stdout.readline(), type=JobLine)
    assert waits.progress is not None
    assert waits.progress.stage == "waiting"
    assert begun(other) == []
    beside = asked(home, msgspec.structs.replace(SPEC, name="beside", adapters=()))
    assert ended(started(beside, "--beside-others"))[0] == 0
    first.terminate()
    ended(first)
    assert ended(second)[0] == 0
    assert begun(other) == UNMERGED
    assert Store(home).names() == ["beside", "other"]


def test_two_processes_with_one_job_make_one_result(home: Path, folder: Path) -> None:
    first, second = started(folder), started(folder)
    assert [ended(process)[0] for process in (first, second)] == [0, 0]
    assert begun(folder) == ALL
    check_done(home, folder)


def test_a_stage_dies_with_its_job_and_the_next_process_waits_for_that(home: Path, folder: Path) -> None:
    process = started(folder, CONVERSION_DOES="convert=hang")
    wait_for(folder, "convert")
    [stage] = children_of(process)
    process.kill()
    ended(process)
    psutil.wait_procs([stage], timeout=10)
    assert not stage.is_running()
    begun(folder)
    assert ended(started(folder))[0] == 0
    assert begun(folder) == ALL[2:]
    check_done(home, folder)


@pytest.mark.parametrize("what", ["no spec", "another spec", "elsewhere"])
def test_a_folder_that_is_no_job_is_refused(home: Path, folder: Path, tmp_path: Path, what: str) -> None:
    if what == "no spec":
        (folder / "spec.json").unlink()
    elif what == "another spec":
        (folder / "spec.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(SPEC, name="n")))
    else:
        (tmp_path / folder.name).mkdir()
        folder = Path((folder / "spec.json").rename(tmp_path / folder.name / "spec.json")).parent
    code, lines = ended(started(folder))
    assert (code, failed(lines).code) == (1, "invalid_model_reference")


def test_what_a_failed_job_keeps_is_collected_once_nobody_goes_on_with_it(home: Path, folder: Path) -> None:
    assert ended(started(folder, CONVERSION_DOES="convert=raise"))[0] == 1
    store = Store(home)
    assert store.collect().bytes == 0
    assert (folder / "merge").is_dir()
    running = asked(home, msgspec.structs.replace(SPEC, name="running"))
    process = started(running, CONVERSION_DOES="convert=hang")
    wait_for(running, "convert")
    assert store.collect(parts_older_than_s=0).bytes > 0
    assert not folder.exists()
    assert (running / "merge").is_dir()
    process.kill()
    ended(process)
    # Nobody has ended it: it is gone on with when the daemon starts.
    store.collect(parts_older_than_s=0)
    assert (running / "merge").is_dir()
