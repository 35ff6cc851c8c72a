from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from converters.calibration import FEWEST_TO_SHARE, PASSAGE_CHARACTERS, SHIPPED, read
from edged.errors import ConfigError

pytestmark = pytest.mark.unit


def lines(file: Path, *rows: object) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return file


def test_the_shipped_text_has_many_languages_code_json_and_talk_for_both_uses() -> None:
    gate, calibrate = read(None, "gate"), read(None, "calibrate")
    assert 30_000 <= SHIPPED.stat().st_size <= 70_000
    assert {passage.line for passage in gate.passages}.isdisjoint(passage.line for passage in calibrate.passages)
    kinds = [json.loads(line)["kind"] for line in SHIPPED.read_text().splitlines()]
    for text in (gate, calibrate):
        used = {kinds[passage.line - 1] for passage in text.passages}
        assert used >= {"de", "fr", "es", "ru", "zh", "ja", "ar", "python", "json"}
        assert any(kind.startswith("en ") for kind in used)
        assert sum(passage.messages is not None for passage in text.passages) >= 4
    assert len(gate.passages) == len(calibrate.passages) == 22


def test_shipped_dialogues_take_turns_as_every_template_wants_them() -> None:
    for use in ("gate", "calibrate"):
        for passage in read(None, use).passages:
            roles = [message["role"] for message in passage.messages or []]
            assert roles == ["user", "assistant"] * (len(roles) // 2)


def test_a_text_is_named_by_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("some words")
    assert read(file, "gate").name == f"mine {hashlib.sha256(b'some words').hexdigest()[:12]}"


def test_a_plain_text_is_cut_at_lines_and_nothing_is_lost(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    text = "".join(f"line {number} has its words\n" for number in range(250))
    file.write_text("\ufeff" + text, encoding="utf-8")
    passages = read(file, "gate").passages
    assert len(passages) < FEWEST_TO_SHARE
    assert "".join(passage.text or "" for passage in passages) == text
    for passage in passages:
        assert passage.text is not None
        assert len(passage.text) <= PASSAGE_CHARACTERS
        assert passage.text.startswith(f"line {passage.line - 1} ")


def test_a_text_without_any_border_is_cut_all_the_same(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("字" * 5000)
    assert [len(passage.text or "") for passage in read(file, "gate").passages] == [2000, 2000, 1000]


def test_few_passages_are_for_both_uses(tmp_path: Path) -> None:
    file = lines(tmp_path / "mine.jsonl", *({"text": f"text {number}"} for number in range(FEWEST_TO_SHARE - 1)))
    assert read(file, "gate").passages == read(file, "calibrate").passages


def test_a_data_set_may_have_more_keys_and_empty_lines(tmp_path: Path) -> None:
    file = lines(tmp_path / "mine.jsonl", {"text": "one", "score": 3},
                 {"messages": [{"role": "user", "content": "two"}, {"role": "assistant", "content": None}]})
    file.write_text(file.read_text().replace("\n", "\n\n"))
    one, two = read(file, "gate").passages
    assert (one.line, one.text, two.line) == (1, "one", 3)
    assert two.plain() == "user: two\n\nassistant: "


@pytest.mark.parametrize(("row", "what"), [
    ("{", "is not JSON"),
    ("[]", "Expected `object`"),
    ('{"text": 3}', "Expected `str"),
    ('{"prompt": "x"}', "either `text` or `messages`"),
    ('{"text": "x", "messages": []}', "either `text` or `messages`"),
    ('{"messages": []}', "`messages` is empty"),
    ('{"messages": [{"content": "x"}]}', "messages[0] has no `role`"),
    ('{"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": [1]}]}', "messages[1] is no text"),
])
def test_a_mistake_names_file_and_line(tmp_path: Path, row: str, what: str) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"text": "fine"}\n' + row + "\n")
    with pytest.raises(ConfigError) as told:
        read(file, "gate")
    assert str(told.value).startswith(f"{file}:2: ")
    assert what in str(told.value)


def test_what_is_no_text_is_told(tmp_path: Path) -> None:
    latin = tmp_path / "latin.txt"
    latin.write_bytes("eins\nzwölf".encode("latin-1"))
    (tmp_path / "empty.jsonl").write_text("\n\n")
    for file, what in ((latin, ":2: is not UTF-8"), (tmp_path / "empty.jsonl", "holds no text"),
                       (tmp_path / "missing.txt", "no such file"), (tmp_path, "no such file")):
        with pytest.raises(ConfigError, match=what):
            read(file, "gate")
