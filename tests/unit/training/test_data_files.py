"""Rows of files of every kind, each with the place where a person finds it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from edged.errors import ConfigError, CorruptFile
from edged.store.paths import Layout
from edged.toml_file import TomlFile, read_toml
from training.data.files import Role, Source, digest_of, read_rows, sources
from training.data.mistakes import Mistakes
from training.recipe import Recipe
from training.run import Run

pytestmark = pytest.mark.unit

CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)


def run_in(folder: Path) -> Run:
    return Run(folder / "run", Recipe(name="x", base="./b"), TomlFile(folder / "recipe.toml", "", {}))


def found(folder: Path, said: str, role: Role = "train") -> list[Source]:
    return sources(run_in(folder), (said,), ("data", role), role)


def rows_of(folder: Path, said: str, mistakes: Mistakes | None = None) -> list[tuple[str, dict[str, Any]]]:
    told = mistakes or Mistakes()
    return [(str(row.place), row.values) for source in found(folder, said) for row in read_rows(source, told)]


def test_lines_of_jsonl_are_those_of_an_editor(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\ufeff{"a": 1}\n\n{"a": 2}\r\n{"a": "x\\ny"}')
    assert rows_of(tmp_path, "a.jsonl") == [
        ("a.jsonl:1", {"a": 1}), ("a.jsonl:3", {"a": 2}), ("a.jsonl:4", {"a": "x\ny"})]


@pytest.mark.parametrize("line", [b"{", b"[1]", b'"text"', b"{\"a\": \xff}", b"[" * 100_000, b'{"a": NaN}',
                                  rb'{"a": "\ud83d"}', rb'{"a": "\ude00x"}', b'{"a": "\xed\xa0\xbd"}'])
def test_what_is_no_row_is_told_with_its_line_and_the_others_are_read(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 3}\n')
    mistakes = Mistakes()
    assert [place for place, _ in rows_of(tmp_path, "a.jsonl", mistakes)] == ["a.jsonl:1", "a.jsonl:3"]
    assert [str(place) for place, _ in mistakes.found] == ["a.jsonl:2"]
    assert mistakes.rows == 3


def test_an_array_of_objects_has_items(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"a": 1}, 2]')
    mistakes = Mistakes()
    assert rows_of(tmp_path, "a.json", mistakes) == [("a.json, item 1", {"a": 1})]
    assert str(mistakes.found[0][0]) == "a.json, item 2"


@pytest.mark.parametrize("text", ['{"a": 1}\n{"a": 2}', '{"a": 1}'])
def test_json_that_is_no_array_is_told_of_jsonl(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ConfigError, match=r"\.jsonl"):
        rows_of(tmp_path, "a.json")


def test_a_quoted_field_may_have_lines_and_the_next_row_knows_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('prompt,answer\n"one\ntwo",1\n\n"three ""3""",2\nshort\nlast,3\n')
    mistakes = Mistakes()
    assert rows_of(tmp_path, "a.csv", mistakes) == [
        ("a.csv:2", {"prompt": "one\ntwo", "answer": "1"}), ("a.csv:5", {"prompt": 'three "3"', "answer": "2"}),
        ("a.csv:7", {"prompt": "last", "answer": "3"})]
    assert [(str(place), "1 fields" in message) for place, message in mistakes.found] == [("a.csv:6", True)]


@given(st.lists(st.tuples(CELLS, CELLS), max_size=8))
def test_csv_comes_back_with_the_lines_where_its_rows_begin(rows: list[tuple[str, str]]) -> None:
    written = io.StringIO(newline="")
    writer = csv.writer(written, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(("prompt", "answer"))
    lines = []
    for row in rows:
        text = written.getvalue().replace("\r\n", "\n").replace("\r", "\n")
        lines.append(text.count("\n") + 1)
        writer.writerow(row)
    from training.data.files import _records

    source = Source("a.csv", Path("a.csv"), "csv")
    read = list(_records(source, written.getvalue(), Mistakes()))
    assert [(row.values["prompt"], row.values["answer"]) for row in read] == rows
    assert [row.place.number for row in read] == lines


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", "\t"), ("a.csv", ",")])
def test_the_first_line_tells_what_separates(tmp_path: Path, name: str, separator: str) -> None:
    (tmp_path / name).write_text(f'a{separator}b\n1{separator}"2"\n')
    assert rows_of(tmp_path, name) == [(f"{name}:2", {"a": "1", "b": "2"})]


def test_every_line_of_csv_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('a,b\n"x"y,1\nz,2\n"w"v,3\n')
    mistakes = Mistakes()
    assert [place for place, _ in rows_of(tmp_path, "a.csv", mistakes)] == ["a.csv:3"]
    assert [str(place) for place, _ in mistakes.found] == ["a.csv:2", "a.csv:4"]


def test_csv_that_is_not_utf8_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"a\n" + b"fine\n" * 20_000 + b"caf\xe9\n")
    with pytest.raises(ConfigError, match=r"a\.csv:20002: is not UTF-8"):
        rows_of(tmp_path, "a.csv")


def test_a_column_named_twice_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,a\n1,2\n")
    with pytest.raises(ConfigError, match="twice"):
        rows_of(tmp_path, "a.csv")


def test_parquet_has_rows(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"a": ["x", "y"], "n": [1, None]}), tmp_path / "a.parquet")
    assert rows_of(tmp_path, "a.parquet") == [
        ("a.parquet, row 1", {"a": "x", "n": 1}), ("a.parquet, row 2", {"a": "y", "n": None})]


def test_a_text_of_parquet_that_is_not_utf8_is_told_with_its_row(tmp_path: Path) -> None:
    texts = pyarrow.array([b"x", b"\xed\xa0\xbd", b"y"]).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"a": texts}), tmp_path / "a.parquet")
    mistakes = Mistakes()
    assert [values for _, values in rows_of(tmp_path, "a.parquet", mistakes)] == [{"a": "x"}, {"a": "y"}]
    assert [str(place) for place, _ in mistakes.found] == ["a.parquet, row 2"]
    assert mistakes.rows == 3


def test_a_damaged_parquet_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing PAR1")
    with pytest.raises(CorruptFile, match=r"a\.parquet"):
        rows_of(tmp_path, "a.parquet")


def test_a_folder_gives_the_files_of_the_split_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "set" / "data").mkdir(parents=True)
    for name in ("train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "validation.jsonl", "extra.jsonl"):
        (tmp_path / "set" / "data" / name).write_text(json.dumps({"a": name}) + "\n")
    assert [source.title for source in found(tmp_path, "set")] == [
        "set/data/train-00000-of-00002.jsonl", "set/data/train-00001-of-00002.jsonl"]
    assert [source.title for source in found(tmp_path, "set", "validation")] == ["set/data/validation.jsonl"]
    with pytest.raises(ConfigError, match="no data for test"):
        found(tmp_path, "set", "test")


def test_a_folder_without_splits_gives_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for name in ("b.csv", "a.jsonl", "readme.md"):
        (tmp_path / "set" / name).write_text("x\n")
    assert [source.title for source in found(tmp_path, "set")] == ["set/a.jsonl", "set/b.csv"]


def test_a_pattern_gives_every_file_it_fits(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.csv"):
        (tmp_path / name).write_text("x\n")
    assert [source.title for source in found(tmp_path, "*.jsonl")] == ["a.jsonl", "b.jsonl"]


def test_a_file_that_is_not_there_is_told_at_its_place_in_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('[data]\ntrain = ["a.jsonl",\n  "b.jsonl"]\n')
    (tmp_path / "a.jsonl").write_text("")
    run = Run(tmp_path / "run", Recipe(name="x", base="./b"), read_toml(tmp_path / "recipe.toml"))
    with pytest.raises(ConfigError, match=r"recipe\.toml:3:3: data\.train\[1\]: there is no file"):
        sources(run, ("a.jsonl", "b.jsonl"), ("data", "train"), "train")


def test_a_kind_that_nobody_knows_is_told_with_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_text("")
    with pytest.raises(ConfigError, match=r"\.parquet"):
        found(tmp_path, "a.xlsx")


def test_captured_answers_are_found_by_the_models_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGED_HOME", str(tmp_path / "home"))
    folder = Layout(tmp_path / "home").captured_of("org/repo:Q4_0")
    folder.mkdir(parents=True)
    (folder / "2026-11-26-1.jsonl").write_bytes(b'{"id": "1"}\n{"id": "2"}\n')
    digest = digest_of(found(tmp_path, "captured:org/repo:Q4_0")[0])
    with (folder / "2026-11-26-1.jsonl").open("ab") as file:
        file.write(b'{"id": "3", "mess')
    assert digest_of(found(tmp_path, "captured:org/repo:Q4_0")[0]) == digest
    mistakes = Mistakes()
    assert rows_of(tmp_path, "captured:org/repo:Q4_0", mistakes) == [
        ("captured:org/repo:Q4_0/2026-11-26-1.jsonl:1", {"id": "1"}),
        ("captured:org/repo:Q4_0/2026-11-26-1.jsonl:2", {"id": "2"})]
    assert mistakes.found == []


def test_where_no_answers_are_captured_the_setting_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGED_HOME", str(tmp_path / "home"))
    with pytest.raises(ConfigError, match="setting `capture`"):
        found(tmp_path, "captured:small")


def test_a_digest_is_of_the_bytes_not_of_the_name(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text('{"a": 1}\n')
    one, other = digest_of(found(tmp_path, "a.jsonl")[0]), digest_of(found(tmp_path, "b.jsonl")[0])
    (tmp_path / "b.jsonl").write_text('{"a": 2}\n')
    assert one == other
    assert digest_of(found(tmp_path, "b.jsonl")[0]) != one
