"""Stored responses as files: bounded, private, in order of use, and never read by another client."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import Conflict, CorruptFile, InsufficientStorage, NotFound
from edged.store import files
from edged.store.responses import Record, ResponseFiles, new_id

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


def shelf(folder: Path, clocks: Clocks | None = None, **limits: Any) -> ResponseFiles:
    said: dict[str, Any] = {"most": 3, "most_bytes": 10_000, "most_s": 30 * DAY_S} | limits
    clocks = clocks or Clocks()
    made = ResponseFiles(folder, clock=lambda: clocks.steady, wall=lambda: clocks.wall, **said)
    made.open()
    return made


def record(clocks: Clocks | None = None, *, size: int = 10, client: str = "me") -> Record:
    text = msgspec.json.encode("x" * size)
    return Record(id=new_id((clocks or Clocks()).wall), client=client, response=msgspec.Raw(text),
                  inputs=msgspec.Raw(b"[]"))


def kept(here: ResponseFiles, *records: Record) -> list[bool]:
    """Whether each is there, without using it."""
    return [one.id in here._kept and (here._folder / f"{one.id}.json").exists() for one in records]


def test_what_was_put_is_got_also_after_a_restart(tmp_path: Path) -> None:
    mine = record()
    here = shelf(tmp_path / "responses")
    here.put(mine)
    assert here.get(mine.id, "me") == mine
    assert shelf(tmp_path / "responses").get(mine.id, "me") == mine


def test_the_least_recently_used_goes_first_also_after_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "responses"
    one, two, three, four, five = (record() for _ in range(5))
    here = shelf(folder)
    for age, each in enumerate([one, two, three]):
        here.put(each)
        used = time.time() - 100 + age
        os.utime(folder / f"{each.id}.json", (used, used))
    here.get(one.id, "me")
    here.put(four)
    assert kept(here, one, two, three, four) == [True, False, True, True]
    again = shelf(folder)
    again.put(five)
    assert kept(again, one, three, four, five) == [True, False, True, True]


@given(sizes=st.lists(st.integers(0, 900), max_size=20))
def test_count_and_bytes_are_bounded_whatever_is_put(
    sizes: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("home") / "responses"
    here = shelf(folder, most=4, most_bytes=2000)
    for size in sizes:
        newest = record(size=size)
        here.put(newest)
        assert here.get(newest.id, "me") == newest
        found = [path.stat().st_size for path in folder.iterdir()]
        assert len(found) <= 4
        assert sum(found) <= 2000


def test_what_is_too_old_goes_though_nobody_asks(tmp_path: Path) -> None:
    clocks = Clocks()
    here = shelf(tmp_path / "responses", clocks)
    old = record(clocks)
    here.put(old)
    clocks.pass_s(20 * DAY_S)
    here = shelf(tmp_path / "responses", clocks)
    young = record(clocks)
    here.put(young)
    clocks.pass_s(11 * DAY_S)
    here.expire()
    assert kept(here, old, young) == [False, True]
    with pytest.raises(NotFound):
        here.get(old.id, "me")


@pytest.mark.parametrize("jump_s", [-40 * 365 * DAY_S, 40 * 365 * DAY_S])
def test_a_clock_that_jumps_takes_nothing_away(tmp_path: Path, jump_s: float) -> None:
    clocks = Clocks()
    here = shelf(tmp_path / "responses", clocks)
    before = record(clocks)
    clocks.wall += jump_s
    here.put(before)
    here.put(after := record(clocks))
    here.expire()
    assert kept(here, before, after) == [True, True]


def test_another_clients_and_one_that_never_was_cannot_be_told_apart(tmp_path: Path) -> None:
    here = shelf(tmp_path / "responses")
    theirs = record(client="them")
    here.put(theirs)
    nobodys = new_id()
    told = []
    for identity in (theirs.id, nobodys):
        with pytest.raises(NotFound) as caught:
            here.get(identity, "me")
        told.append(caught.value.message.replace(identity, "ID"))
        with pytest.raises(NotFound):
            here.delete(identity, "me")
    assert told[0] == told[1]
    assert kept(here, theirs) == [True]


@pytest.mark.parametrize("identity", ["", ".", "../secret", "resp_" + "0" * 39, "resp_" + "0" * 40 + "/..", "resp_\n"])
def test_no_id_leads_out_of_the_folder(tmp_path: Path, identity: str) -> None:
    (tmp_path / "secret.json").write_bytes(msgspec.json.encode(record()))
    with pytest.raises(NotFound):
        shelf(tmp_path / "responses").get(identity, "me")


def test_a_renamed_file_is_not_another_response(tmp_path: Path) -> None:
    folder = tmp_path / "responses"
    mine, other = record(), new_id()
    shelf(folder).put(mine)
    (folder / f"{mine.id}.json").rename(folder / f"{other}.json")
    with pytest.raises(NotFound):
        shelf(folder).get(other, "me")


def test_a_damaged_file_is_named_and_can_be_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "responses"
    mine = record()
    here = shelf(folder)
    here.put(mine)
    (folder / f"{mine.id}.json").write_bytes(b"")
    with pytest.raises(CorruptFile, match=mine.id):
        here.get(mine.id, "me")
    here.delete(mine.id, "me")
    assert list(folder.iterdir()) == []


def test_a_response_is_one_write_and_nothing_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = shelf(tmp_path / "responses")
    here.put(record())
    seen: list[str] = []
    monkeypatch.setattr(files, "watch", lambda operation: seen.append(operation.kind))
    here.put(record())
    assert seen == ["create", "write", "rename"]


def test_modes_keep_everybody_else_out(tmp_path: Path) -> None:
    folder = tmp_path / "responses"
    shelf(folder).put(record())
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600]


def test_what_a_dead_process_left_half_written_goes(tmp_path: Path) -> None:
    folder = tmp_path / "responses"
    folder.mkdir()
    for name, age_s in [("write-1-aa", 7200), ("write-2-bb", 60)]:
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (START - age_s, START - age_s))
    shelf(folder)
    assert [path.name for path in folder.iterdir()] == ["write-2-bb"]


def test_purging_leaves_nothing(tmp_path: Path) -> None:
    here = shelf(tmp_path / "responses")
    for _ in range(2):
        here.put(record())
    assert here.purge() == 2
    assert list((tmp_path / "responses").iterdir()) == []


def test_none_kept_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="stored_responses = 0"):
        shelf(tmp_path / "responses", most=0).put(record())
    with pytest.raises(InsufficientStorage, match="store=false"):
        shelf(tmp_path / "responses").put(record(size=20_000))
    assert not (tmp_path / "responses").exists()


def test_a_disk_that_takes_nothing_is_told_and_leaves_what_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = shelf(tmp_path / "responses")
    mine = record()
    here.put(mine)
    for number, expected in [(28, InsufficientStorage), (30, Conflict)]:
        def fail(operation: files.Operation, number: int = number) -> None:
            if operation.kind == "write":
                raise OSError(number, os.strerror(number))

        monkeypatch.setattr(files, "watch", fail)
        with pytest.raises(expected, match="store=false"):
            here.put(record())
    assert [path.name for path in (tmp_path / "responses").iterdir()] == [f"{mine.id}.json"]
    assert here.get(mine.id, "me") == mine
