"""The catalog: what can be pulled and how to serve it. The shipped `models.toml`, and the user's own file over it.

Merged by model and by key: a user's `[models.NAME]` changes the keys it names and keeps the others; tables within it
(sampling, options) are merged in the same way, lists (variants) are replaced whole. `[aliases]` are merged by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edged.store.catalog_errors import explain
from edged.store.catalog_shape import NAME_PATTERN, ModelTable
from edged.store.entries import Catalog, ModelEntry
from edged.toml_file import KeyPath, TomlFile, nearest, read_toml

MAX_TEXT_BYTES = 1024 * 1024
_SECTIONS = ("aliases", "models")


def shipped_file() -> Path:
    """In the package where edged is installed, at the top of a source tree."""
    package = Path(__file__).parents[1]
    installed = package / "models.toml"
    return installed if installed.is_file() else package.parent / "models.toml"


class CatalogFile:
    """Owner of the catalog in force. One thread calls it."""

    def __init__(self, user_file: Path | None, shipped: Path) -> None:
        self._user_file = user_file
        self._shipped = shipped
        #: A user's file that was there once must stay; one that never was may come.
        self._seen = False
        self.current = self._read()

    def reload(self) -> list[str]:
        """Read again. Returns the models and aliases that are new, gone or changed, sorted.

        Raises ConfigError and keeps the old catalog where there is a mistake.
        """
        old, new = self.current, self._read()
        self.current = new
        return sorted(_changed(old.models, new.models) | _changed(old.aliases, new.aliases))

    def entry(self, name: str) -> ModelEntry | None:
        """name: of a model or an alias, without a version."""
        return self.current.models.get(self.resolve_alias(name))

    def resolve_alias(self, name: str) -> str:
        """What the alias means in the end, perhaps with a version (`model@version`); any other name as it is."""
        while (target := self.current.aliases.get(name)) is not None:
            name = target
        return name

    def _read(self) -> Catalog:
        read = [_checked(read_toml(self._shipped))]
        if self._user_file is not None and (self._seen or self._user_file.exists()):
            read.append(_checked(read_toml(self._user_file)))
            self._seen = True
        return _merged(read)


def load_catalog(user_file: Path | None) -> CatalogFile:
    """user_file may not be there yet. Raises ConfigError with file, line, column and key, and what would be right."""
    return CatalogFile(user_file, shipped_file())


def _changed(old: Mapping[str, object], new: Mapping[str, object]) -> set[str]:
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def _checked(file: TomlFile) -> TomlFile:
    """The file, each table of it on its own without a mistake, and chat templates read from the files they name."""
    for section, value in file.values.items():
        if section not in _SECTIONS:
            raise file.mistake((section,), f"there is no such key{nearest(section, _SECTIONS)} "
                                           "(known here: [aliases], [models.NAME])")
        if not isinstance(value, dict):
            raise file.mistake((section,), "must be a table", at_value=True)
    for name, table in file.values.get("models", {}).items():
        path = ("models", name)
        if not re.fullmatch(NAME_PATTERN, name):
            raise file.mistake(path, "a model's name is letters, digits and . _ - : / (128 at most, a letter or digit "
                                     "first)")
        try:
            msgspec.convert(table, ModelTable, str_keys=True)
        except msgspec.ValidationError as error:
            raise explain(error, file, path, ModelTable) from None
        if (template := table.get("chat_template")) is not None:
            table["chat_template"] = _template(template, file, (*path, "chat_template"))
        if (prompts := table.get("warm_prompts")) is not None:
            table["warm_prompts"] = [_prompt(prompt, file, (*path, "warm_prompts", index))
                                     for index, prompt in enumerate(prompts)]
    for alias, target in file.values.get("aliases", {}).items():
        if not isinstance(target, str) or not target:
            raise file.mistake(("aliases", alias), "must be the name of a model, as a text", at_value=True)
        if not alias or len(alias) > 200 or "@" in alias or not alias.isprintable():
            raise file.mistake(("aliases", alias), "an alias is 1 to 200 printable characters without @")
    return file


def _template(written: str, file: TomlFile, path: KeyPath) -> str:
    """The template itself where it looks like one, else the text of the file it names, relative to the catalog's."""
    if "{{" in written or "{%" in written or "\n" in written:
        return written
    return _text_of(written, file, path, "name a Jinja file or write the template itself")


def _prompt(said: str | dict[str, str], file: TomlFile, path: KeyPath) -> str:
    if isinstance(said, str):
        return said
    text = _text_of(said["file"], file, path, "name a file, or write the text itself")
    if not text:
        raise file.mistake(path, f"{said['file']} is empty", at_value=True)
    return text


def _text_of(written: str, file: TomlFile, path: KeyPath, advice: str) -> str:
    """Of a file beside the catalog's."""
    named = file.path.parent / Path(written).expanduser()
    try:
        if named.stat().st_size > MAX_TEXT_BYTES:
            raise file.mistake(path, f"{named} is over {MAX_TEXT_BYTES} bytes", at_value=True)
        return named.read_text("utf-8")
    except OSError as error:
        reason = "there is no file" if isinstance(error, FileNotFoundError) else f"{error.strerror}:"
        raise file.mistake(path, f"{reason} {named}; {advice}", at_value=True) from None
    except UnicodeDecodeError:
        raise file.mistake(path, f"{named} is not UTF-8", at_value=True) from None


def _merged(read: list[TomlFile]) -> Catalog:
    """read: the later goes over the earlier."""
    tables: dict[str, Any] = {}
    for file in read:
        tables = _over(tables, file.values)
    models = {
        name: msgspec.convert({**table, "name": name}, ModelEntry, str_keys=True)
        for name, table in tables.get("models", {}).items()
    }
    aliases: dict[str, str] = tables.get("aliases", {})
    for alias in aliases:
        if (wrong := _alias_mistake(alias, aliases, models)) is not None:
            raise _alias_source(alias, read).mistake(("aliases", alias), wrong)
    return Catalog(models=models, aliases=aliases)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _over(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def _alias_mistake(alias: str, aliases: Mapping[str, str], models: Mapping[str, ModelEntry]) -> str | None:
    if alias in models:
        return f"hides the model {alias}; give the alias another name"
    seen = [alias]
    while (target := aliases.get(seen[-1])) is not None:
        if target in seen:
            return f"is a loop ({' → '.join([*seen, target])}); let one of them name a model"
        seen.append(target)
    if (model := seen[-1].partition("@")[0]) in models:
        return None
    near = nearest(model, [*models, *aliases])
    return f"{model} is no model of the catalog{near} (a model pulled by reference needs a table [models.\"{model}\"])"


def _alias_source(alias: str, read: list[TomlFile]) -> TomlFile:
    return next(file for file in reversed(read) if alias in file.values.get("aliases", {}))
