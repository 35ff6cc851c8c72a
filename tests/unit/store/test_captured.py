"""Captured answers as files: private, within quota and age, never mixed up between writers, torn lines left out."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edged.errors import NotFound
from edged.settings import Settings
from edged.store import files
from edged.store.captured import Answer, Captured, answered_at, is_captured
from edged.store.captured_files import CapturedFiles
from edged.store.entries import ModelEntry
from edged.store.files import Operation
from edged.store.paths import Layout

pytestmark = pytest.mark.unit

START = 1_800_000_000
DAY_S = 86_400.0


class Clocks:
    """The wall's and the one that never jumps."""

    def __init__(self) -> None:
        self.wall, self.steady = float(START), 5.0

    def pass_s(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


def shelf(home: Path, clocks: Clocks | None = None, **limits: Any) -> CapturedFiles:
    home.mkdir(exist_ok=True)
    said: dict[str, Any] = {"most_bytes": 80_000, "most_s": 30 * DAY_S} | limits
    clocks = clocks or Clocks()
    return CapturedFiles(Layout(home), clock=lambda: clocks.steady, wall=lambda: clocks.wall, **said)


def line(number: int = 0, *, at: float = START, size: int = 10) -> bytes:
    answer = Answer(
        id=f"r{number}", at=at, model="tiny", version="v", adapter=None, finish_reason="stop", prompt_tokens=1,
        completion_tokens=1, client=None, tools=[], messages=[{"role": "assistant", "content": "x" * size}])
    return msgspec.json.encode(answer) + b"\n"


def ids(home: Path, model: str = "tiny") -> list[str]:
    return [msgspec.json.decode(one)["id"] for one in Captured(Layout(home)).lines(model)]


def test_answers_are_read_in_the_order_in_which_they_came_across_days_and_restarts(tmp_path: Path) -> None:
    clocks = Clocks()
    home = tmp_path / "home"
    for day in range(12):
        here = shelf(home, clocks)
        here.append("tiny", line(2 * day))
        here.append("tiny", line(2 * day + 1))
        here.close()
        clocks.pass_s(DAY_S / 2)
    assert ids(home) == [f"r{number}" for number in range(24)]
    names = [path.name for path in Captured(Layout(home)).paths("tiny")]
    assert names[0] == "2027-01-15-1.jsonl"
    assert len(names) == 12


def test_only_this_user_can_read_it(tmp_path: Path) -> None:
    shelf(tmp_path / "home").append("org/repo:q4", line())
    (folder,) = (tmp_path / "home" / "captured").iterdir()
    (file,) = folder.iterdir()
    assert [path.stat().st_mode & 0o777 for path in (folder.parent, folder, file)] == [0o700, 0o700, 0o600]


def test_no_name_of_a_model_leads_out_of_the_folder(tmp_path: Path) -> None:
    here = shelf(tmp_path / "home")
    for name in ("../../out", "..", ".hidden", "a/b"):
        here.append(name, line())
    assert {path.name for path in tmp_path.iterdir()} == {"home"}
    assert Captured(Layout(tmp_path / "home")).models() == sorted(["../../out", "..", ".hidden", "a/b"])


def test_the_oldest_files_go_above_the_quota_whatever_model_they_are_of(tmp_path: Path) -> None:
    clocks = Clocks()
    home = tmp_path / "home"
    here = shelf(home, clocks)
    for number in range(300):
        here.append(("tiny", "other")[number % 3 == 0], line(number, at=clocks.wall, size=900))
        clocks.pass_s(1)
        assert here.held_bytes <= 80_000
    held = sum(path.stat().st_size for path in Captured(Layout(home)).paths())
    assert held == here.held_bytes > 60_000
    assert ids(home)[-1] == "r299"
    assert sorted(int(one[1:]) for one in [*ids(home), *ids(home, "other")])[0] > 200


def test_what_another_process_wrote_counts_and_goes_too(tmp_path: Path) -> None:
    clocks = Clocks()
    home = tmp_path / "home"
    one, other = shelf(home, clocks), shelf(home, clocks)
    for number in range(200):
        (one, other)[number % 2].append("tiny", line(number, at=clocks.wall, size=900))
        clocks.pass_s(1)
    one.tidy()
    assert sum(path.stat().st_size for path in Captured(Layout(home)).paths()) <= 80_000
    # Each line is whole, and in the file of the one that wrote it.
    assert all(msgspec.json.decode(each, type=Answer) for each in Captured(Layout(home)).lines("tiny"))


def test_what_is_too_old_goes_though_nothing_is_captured_any_more(tmp_path: Path) -> None:
    clocks = Clocks()
    home = tmp_path / "home"
    here = shelf(home, clocks)
    here.append("tiny", line(1, at=clocks.wall))
    clocks.pass_s(20 * DAY_S)
    here.append("tiny", line(2, at=clocks.wall))
    here.close()
    later = shelf(home, clocks)
    assert later.tidy() == 0
    clocks.pass_s(10 * DAY_S + 1)
    assert later.tidy() == 1
    assert ids(home) == ["r2"]
    clocks.pass_s(20 * DAY_S)
    assert later.tidy() == 1
    assert Captured(Layout(home)).models() == []


@pytest.mark.parametrize("jump_s", [-400 * DAY_S, 400 * DAY_S])
def test_a_clock_that_jumps_while_it_runs_removes_nothing_early(tmp_path: Path, jump_s: float) -> None:
    clocks = Clocks()
    here = shelf(tmp_path / "home", clocks)
    here.append("tiny", line(1, at=clocks.wall))
    clocks.wall += jump_s
    assert here.tidy() == 0
    clocks.steady += 30 * DAY_S
    assert here.tidy() == 1


def test_a_torn_last_line_is_left_out_and_the_next_process_goes_on_in_another_file(tmp_path: Path) -> None:
    home = tmp_path / "home"
    here = shelf(home)
    here.append("tiny", line(1))
    (path,) = Captured(Layout(home)).paths()
    with path.open("ab") as file:
        file.write(line(2)[:20])
    shelf(home).append("tiny", line(3))
    assert ids(home) == ["r1", "r3"]
    (kept,) = Captured(Layout(home)).kept()
    assert (kept.answers, kept.files, kept.first_at, kept.last_at) == (2, 2, START, START)


@pytest.mark.parametrize("written", [0, 30])
def test_a_disk_that_is_full_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                      written: int) -> None:
    here = shelf(tmp_path / "home")
    here.append("tiny", line(1))
    real = os.pwrite

    def full(fd: int, data: Any, offset: int) -> int:
        if written and offset == len(line(1)):
            return real(fd, bytes(data)[:written], offset)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            here.append("tiny", line(2))
    here.append("tiny", line(3))
    assert ids(tmp_path / "home") == ["r1", "r3"]


def test_some_of_the_disk_stays_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = shelf(tmp_path / "home")
    monkeypatch.setattr("edged.store.captured_files.MARGIN_BYTES", 1 << 60)
    with pytest.raises(OSError, match="No space"):
        here.append("tiny", line(1))


def test_a_purge_forgets_one_model_or_all_also_what_is_being_written(tmp_path: Path) -> None:
    home = tmp_path / "home"
    here = shelf(home)
    for model in ("tiny", "tiny", "other"):
        here.append(model, line())
    assert here.purge("tiny") == 2
    assert Captured(Layout(home)).models() == ["other"]
    here.append("tiny", line(5))
    assert ids(home) == ["r5"]
    assert here.purge() == 2
    assert Captured(Layout(home)).paths() == []
    assert here.held_bytes == 0


@pytest.mark.parametrize("refused", ["captured", "tiny"])
def test_a_folder_that_cannot_be_read_is_never_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str,
) -> None:
    home = tmp_path / "home"
    here = shelf(home)
    here.append("tiny", line(1))
    held_bytes, list_folder = here.held_bytes, Path.iterdir

    def refusing(folder: Path) -> Any:
        if folder.name == refused:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return list_folder(folder)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "iterdir", refusing)
        for act in (here.purge, here.tidy, Captured(Layout(home)).purge, Captured(Layout(home)).kept):
            with pytest.raises(PermissionError):
                act()
        assert here.held_bytes == held_bytes
    assert ids(home) == ["r1"]


@pytest.mark.parametrize("damaged", [b'{"at": "\xff"}\n', b'{"x":' + b"[" * 100_000 + b"\n", b"no\n"])
def test_a_damaged_line_is_of_no_time(damaged: bytes) -> None:
    assert answered_at(damaged) is None


def test_a_file_beside_the_models_folders_is_passed_over(tmp_path: Path) -> None:
    home = tmp_path / "home"
    shelf(home).append("tiny", line(1))
    (home / "captured" / "note.txt").write_text("not ours")
    assert Captured(Layout(home)).models() == ["tiny"]


def test_a_file_that_was_not_seen_while_it_was_written_is_written_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = tmp_path / "home"
    here = shelf(home)
    here.append("tiny", line(1))
    with monkeypatch.context() as patched:
        patched.setattr(Captured, "paths", lambda *_: [])
        here.tidy()
    here.append("tiny", line(2))
    assert ids(home) == ["r1", "r2"]


def test_a_purge_of_a_model_of_which_nothing_is_kept_says_so(tmp_path: Path) -> None:
    here = shelf(tmp_path / "home")
    here.append("tiny", line())
    for name in ("alias", "tiny@0123456789ab"):
        with pytest.raises(NotFound, match="There are answers of tiny"):
            here.purge(name)
    assert here.purge() == 1
    assert here.purge() == 0


def test_after_another_process_purged_the_next_answer_is_in_a_new_file(tmp_path: Path) -> None:
    home = tmp_path / "home"
    here = shelf(home)
    here.append("tiny", line(1))
    assert Captured(Layout(home)).purge() == 1
    here.append("tiny", line(2))
    assert ids(home) == ["r2"]


def test_a_name_that_another_process_takes_in_the_same_moment_is_left_to_it(tmp_path: Path,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    here = shelf(home)

    def taken(operation: Operation) -> None:
        if operation.kind == "create" and operation.path.name.endswith("-1.jsonl"):
            operation.path.write_bytes(line(1))

    monkeypatch.setattr(files, "watch", taken)
    here.append("tiny", line(2))
    assert ids(home) == ["r1", "r2"]


def test_a_model_without_answers_is_not_found_and_those_with_some_are_named(tmp_path: Path) -> None:
    here = shelf(tmp_path / "home")
    with pytest.raises(NotFound, match="before an operator says so"):
        Captured(Layout(tmp_path / "home")).lines("tiny")
    here.append("other", line())
    with pytest.raises(NotFound, match="There are answers of other"):
        Captured(Layout(tmp_path / "home")).lines("tiny")


@pytest.mark.parametrize(("named", "said", "on"), [
    (False, None, False), (True, None, True), (True, False, False), (False, True, True)])
def test_the_catalog_goes_before_the_settings_and_off_is_the_default(named: bool, said: bool | None, on: bool) -> None:
    settings = Settings(capture=("tiny",) if named else ())
    assert is_captured("tiny", settings, ModelEntry(name="tiny", capture=said)) is on
    assert is_captured("tiny", settings, None) is named
