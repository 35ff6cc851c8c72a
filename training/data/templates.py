"""The recipe's own templates: Jinja over a row's columns, sandboxed, with nothing undefined passed over."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edged.toml_file import KeyPath, TomlFile
from training.data.mistakes import WrongRow
from training.recipe import Data


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["tojson"] = _tojson
    return environment


@dataclass(frozen=True, slots=True)
class Template:
    """One text of the recipe. `row` is all columns, for those whose names are no words. names: what it takes of a row,
    by its own name, or `row`."""

    name: str
    compiled: jinja2.Template
    names: frozenset[str]

    def __call__(self, values: dict[str, Any]) -> str:
        """Raises WrongRow with what the template lacks, and the columns that are there."""
        try:
            return self.compiled.render({**values, "row": values})
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise WrongRow(f"data.{self.name} fails on it ({str(error)[:200]}); it has {columns(values)}") from None

    def fits(self, values: dict[str, Any]) -> bool:
        """Whether the row has its columns, or it does without those that are not there."""
        if self.names <= values.keys():
            return True
        try:
            self(values)
        except WrongRow:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Templates:
    """Those that the recipe has. stratum may be a column's name instead."""

    prompt: Template | None = None
    answer: Template | None = None
    rejected: Template | None = None
    system: Template | None = None
    stratum: Template | str | None = None


def templates(data: Data, file: TomlFile) -> Templates:
    """Raises ConfigError at the key of one that is no Jinja."""
    stratum: Template | str | None = data.stratum
    if data.stratum is not None and "{" in data.stratum:
        stratum = _compiled(data.stratum, "stratum", file)
    return Templates(
        stratum=stratum,
        **{name: _compiled(text, name, file) for name in ("prompt", "answer", "rejected", "system")
           if (text := getattr(data, name)) is not None})


def columns(values: dict[str, Any]) -> str:
    return "the columns " + ", ".join(list(values)[:20]) if values else "no columns"


def _compiled(text: str, name: str, file: TomlFile) -> Template:
    key: KeyPath = ("data", name)
    environment = _environment()
    try:
        names = jinja2.meta.find_undeclared_variables(environment.parse(text)) - environment.globals.keys()
        return Template(name, environment.from_string(text), frozenset(names))
    except jinja2.TemplateError as error:
        raise file.mistake(key, f"is no Jinja template: {str(error)[:200]}") from None
