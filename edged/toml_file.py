"""TOML files with positions: what settings and catalog read, and where in the file a mistake lies.

tomllib reads, but tells no positions; tree-sitter's TOML grammar knows them, and is imported only once there is a
mistake to locate.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edged.errors import ConfigError

if TYPE_CHECKING:
    from tree_sitter import Node

#: Keys and array indexes from the top of the file, as in `("models", "x", "variants", 0, "engine")`.
KeyPath = tuple[str | int, ...]

MAX_FILE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Position:
    """Both count from 1; column counts characters."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class TomlFile:
    """One file, read once: text and values are of the same instant."""

    path: Path
    text: str
    values: dict[str, Any]

    def mistake(self, path: KeyPath, message: str, *, at_value: bool = False) -> ConfigError:
        """The error for the key at `path`; where the file lacks that key, for the nearest table around it."""
        position = locate(self.text, path, at_value=at_value)
        return ConfigError(
            message, file=str(self.path), line=position.line, column=position.column, key=dotted(path)
        )


def read_toml(path: Path) -> TomlFile:
    """Raises ConfigError: no such file, not readable, not UTF-8, not TOML (with line and column)."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError("there is no such file; make it, or name another one", file=str(path)) from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"cannot be read ({reason}); mend its permissions", file=str(path)) from None
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"is over {MAX_FILE_BYTES} bytes, which no configuration needs", file=str(path))
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line = before.count(b"\n") + 1
        raise ConfigError("is not UTF-8 here; save it as UTF-8", file=str(path), line=line) from None
    text = text.replace("\r\n", "\n")
    try:
        return TomlFile(path, text, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        message, position = _syntax_error(str(error), text)
        raise ConfigError(
            f"not TOML: {message}", file=str(path), line=position.line, column=position.column
        ) from None


def dotted(path: KeyPath) -> str:
    """The path as one would write it in TOML: `models.x.variants[0].engine`, odd keys quoted."""
    written = ""
    for part in path:
        if isinstance(part, int):
            written += f"[{part}]"
        else:
            key = part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"'
            written += f".{key}" if written else key
    return written


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing where no known name is near."""
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _syntax_error(message: str, text: str) -> tuple[str, Position]:
    """tomllib says the place in words: `… (at line 3, column 5)` or `… (at end of document)`."""
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", message, re.DOTALL)
    if found is None:
        return message, Position(1, 1)
    if found[2] is None:
        lines = text.split("\n")
        return f"{found[1]}, at the end of the file", Position(len(lines), len(lines[-1]) + 1)
    return found[1], Position(int(found[2]), int(found[3]))


def locate(text: str, path: KeyPath, *, at_value: bool = False) -> Position:
    """Where the key at `path` stands, or its value; the nearest table around it if the text has no such key.
    `text` is valid TOML."""
    index = _Index(text)
    if at_value and path in index.values:
        return index.values[path]
    for length in range(len(path), 0, -1):
        if (place := index.keys.get(path[:length])) is not None:
            return place
    return Position(1, 1)


class _Index:
    """Positions of every key and value of one TOML text, by full path."""

    def __init__(self, text: str) -> None:
        import tree_sitter
        import tree_sitter_toml

        self.keys: dict[KeyPath, Position] = {}
        self.values: dict[KeyPath, Position] = {}
        #: Tables seen so far in each array of tables.
        self._lengths: dict[KeyPath, int] = {}
        self._lines = text.encode().split(b"\n")
        parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_toml.language()))
        for node in parser.parse(text.encode()).root_node.named_children:
            self._top(node)

    def _top(self, node: Node) -> None:
        if node.type == "pair":
            self._pair(node, ())
        elif node.type in ("table", "table_array_element"):
            table: KeyPath = ()
            header, *pairs = [child for child in node.named_children if child.type != "comment"]
            for key in _parts(header):
                table = (*table, _key_text(key))
                self.keys.setdefault(table, self._position(key))
                if (length := self._lengths.get(table)) is not None and key.end_byte != header.end_byte:
                    table = (*table, length - 1)
            if node.type == "table_array_element":
                number = self._lengths.get(table, 0)
                self._lengths[table] = number + 1
                table = (*table, number)
                self.keys[table] = self._position(header)
            for pair in pairs:
                self._pair(pair, table)

    def _pair(self, node: Node, table: KeyPath) -> None:
        if node.type != "pair":
            return
        left, right = (child for child in node.named_children if child.type != "comment")
        path = table
        for key in _parts(left):
            path = (*path, _key_text(key))
            self.keys.setdefault(path, self._position(key))
        self._value(right, path)

    def _value(self, node: Node, path: KeyPath) -> None:
        self.values[path] = self._position(node)
        children = [child for child in node.named_children if child.type != "comment"]
        if node.type == "inline_table":
            for pair in children:
                self._pair(pair, path)
        elif node.type == "array":
            for number, item in enumerate(children):
                self.keys[(*path, number)] = self._position(item)
                self._value(item, (*path, number))

    def _position(self, node: Node) -> Position:
        row, column_bytes = node.start_point
        characters = self._lines[row][:column_bytes].decode("utf-8", "replace")
        return Position(row + 1, len(characters) + 1)


def _parts(node: Node) -> list[Node]:
    """The single keys of a key that may be dotted; the grammar nests them to the left."""
    if node.type != "dotted_key":
        return [node]
    return [part for child in node.named_children for part in _parts(child)]


def _key_text(node: Node) -> str:
    written = (node.text or b"").decode()
    if node.type == "bare_key":
        return written
    return next(iter(tomllib.loads(f"{written} = 0")))
