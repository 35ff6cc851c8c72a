from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import ConfigError
from edged.toml_file import MAX_FILE_BYTES, KeyPath, Position, dotted, locate, nearest, read_toml

pytestmark = pytest.mark.unit

TEXT = """# ä comment
a.b = 1
"q.x" = { k = 2, l.m = [1, { z = 3 }] }
[models.foo]
context = 3  # here
[[models.foo.variants]]
engine = "x"
[[models.foo.variants]]
source.parts = [
  { a = 1 },  # first
  { b = "ü", c = 2 },
]
[models.'bar baz'.sampling]
top_k = 1
"""


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        (("a", "b"), (2, 3), (2, 7)),
        (("q.x",), (3, 1), (3, 9)),
        (("q.x", "l", "m", 1, "z"), (3, 30), (3, 34)),
        (("models", "foo", "context"), (5, 1), (5, 11)),
        (("models", "foo", "variants", 0, "engine"), (7, 1), (7, 10)),
        (("models", "foo", "variants", 1), (8, 3), (8, 3)),
        (("models", "foo", "variants", 1, "source", "parts", 1, "c"), (11, 14), (11, 18)),
        (("models", "bar baz", "sampling", "top_k"), (14, 1), (14, 9)),
        (("models", "bar baz", "nothing"), (13, 9), (13, 9)),
        (("nothing",), (1, 1), (1, 1)),
    ],
)
def test_keys_and_values_are_located_by_line_and_column(
    path: KeyPath, key: tuple[int, int], value: tuple[int, int]
) -> None:
    assert locate(TEXT, path) == Position(*key)
    assert locate(TEXT, path, at_value=True) == Position(*value)


_keys = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=6)


def _paths(value: object, path: KeyPath = ()) -> list[KeyPath]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(inner for key, one in items for inner in _paths(one, (*path, key)))]


def _quoted(key: str) -> str:
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _inline(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_quoted(key)} = {_inline(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(one) for one in value) + "]"
    return str(value)


_values = st.recursive(
    st.integers(0, 9), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(_keys, _values, max_size=4), st.dictionaries(_keys, st.lists(_values, max_size=2), max_size=2))
def test_every_key_of_any_file_is_located_where_it_stands(
    top: dict[str, object], tables: dict[str, list[object]]
) -> None:
    text = "".join(f"{_quoted(key)} = {_inline(value)}\n" for key, value in top.items() if key not in tables)
    for key, values in tables.items():
        text += "".join(f"[[ {_quoted(key)} ]]\n{_quoted('in')} = {_inline(value)} # c\n" for value in values)
    lines = text.split("\n")
    for path in _paths(tomllib.loads(text))[1:]:
        if isinstance(path[-1], str):
            place = locate(text, path)
            assert lines[place.line - 1][place.column - 1 :].startswith(_quoted(path[-1]))


def read(tmp_path: Path, raw: bytes) -> ConfigError:
    path = tmp_path / "x.toml"
    path.write_bytes(raw)
    with pytest.raises(ConfigError) as caught:
        read_toml(path)
    assert caught.value.file == str(path)
    return caught.value


@pytest.mark.parametrize(
    ("raw", "line", "column"),
    [(b"a = 1\nb = = 2\n", 2, 5), (b"a = [1,\n", 2, 1), (b"a = 1\na = 2\n", 2, 6), (b"\xc3\xa4 = 1\n", 1, 1),
     (b"[x]\r\ny = 1\r\nz\r\n", 3, 2)],
)
def test_a_syntax_error_has_its_line_and_column(tmp_path: Path, raw: bytes, line: int, column: int) -> None:
    error = read(tmp_path, raw)
    assert (error.line, error.column) == (line, column)
    assert "not TOML" in str(error)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no.toml: there is no such file"):
        read_toml(tmp_path / "no.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_toml(tmp_path)


def test_odd_encodings_and_huge_files_are_refused(tmp_path: Path) -> None:
    error = read(tmp_path, b"a = 1\nb = '\xff'\n")
    assert error.line == 2
    assert "UTF-8" in str(error)
    assert "over" in str(read(tmp_path, b"#" * (MAX_FILE_BYTES + 1)))


def test_paths_are_written_as_in_toml() -> None:
    assert dotted(("models", "a.b", "variants", 0, "engine")) == 'models."a.b".variants[0].engine'


def test_a_near_name_is_offered_and_a_far_one_is_not() -> None:
    assert nearest("contxt", ["context", "rows"]) == "; did you mean context?"
    assert nearest("zzz", ["context", "rows"]) == ""
