"""What edged knows of a family of models: how it is recognised, and how it writes thoughts and calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from edged.worker.formats.lark import Callee, Spelling
from edged.worker.formats.parts import Parser
from edged.worker.formats.thinking import Tags


@dataclass(frozen=True, slots=True)
class CallGrammar:
    """rest: the calls, as an expression, without the trigger that begins them. rules: that it needs."""

    rest: str
    rules: list[str]


class Unwritable(Exception):
    """The family's notation cannot be held to this schema."""


class WritesCalls(Protocol):
    def __call__(self, functions: Sequence[Callee], *, parallel: bool, spell: Spelling) -> CallGrammar:
        """Raises Unwritable."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """signs: texts that a chat template of the family holds, all of them. marks: texts that may be control tokens.
    trigger: what begins calls, in running text; "" where a call is known by beginning the answer. parser: takes the
    names of the functions that may be called. write: one call of the past as the family writes it, for templates that
    show none; takes its name and its arguments as JSON. single: one call in an answer at most. blind: its templates
    show no calls. tags: around thoughts, of a family whose parser reads them itself."""

    name: str
    signs: tuple[str, ...]
    marks: tuple[str, ...]
    parser: Callable[[frozenset[str]], Parser]
    grammar: WritesCalls
    write: Callable[[str, str], str]
    trigger: str = ""
    single: bool = False
    blind: bool = False
    tags: Tags | None = None
