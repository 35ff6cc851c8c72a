"""Files that a recipe names become examples. All that is wrong with them is told at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from edged.errors import ConfigError, InvalidRequest
from edged.toml_file import KeyPath
from training.data.files import CAPTURED, Row, Source, read_rows, sources
from training.data.forms import (
    ANSWERS,
    CHAT,
    CHOSEN,
    PROMPTS,
    REJECTED,
    Form,
    detect,
    example_of,
    of_captured,
    of_other_tables,
)
from training.data.messages import has_thoughts
from training.data.mistakes import Mistakes, Place, WrongRow
from training.data.templates import Templates, templates
from training.encode import token_counts
from training.examples import Example
from training.recipe import Data
from training.rendering import require_template
from training.run import Run


@dataclass(frozen=True, slots=True)
class Read:
    """An example and where it is from. tokens: of prompt and answer, once they are counted."""

    example: Example
    place: Place
    tokens: tuple[int, int] = (0, 0)


def examples_of(
    run: Run, named: tuple[str, ...], key: KeyPath, form: Literal["auto"] | Form = "auto",
    note: Callable[[str], None] = lambda told: None, *, tokenizer: Any | None = None,
) -> list[Example]:
    """What other tables of the recipe name as `data.train` does (`distil.answers.prompts`,
    `finetune.preferences.data`), with the templates of [data] that are for it; key: where. Doubles are left in. note:
    is told what is left out as `data.max_invalid_share` allows. tokenizer: of the model that learns them; what its chat
    template refuses is wrong too.

    Raises ConfigError with place and reason of everything that is wrong, CorruptFile."""
    mistakes = Mistakes()
    found = read(run, sources(run, named, key, "train"), form, mistakes, of_data=False)
    if tokenizer is not None:
        found = list(counted(found, tokenizer, mistakes))
    mistakes.require(run.recipe.data.max_invalid_share if run.recipe.data is not None else 0.0)
    if mistakes.found:
        note(f"{len(mistakes.found)} of {mistakes.rows} rows of {'.'.join(map(str, key))} are no examples and left out")
    for told in mistakes.left_out():
        note(told)
    if not found:
        raise run.file.mistake(key, "holds no row")
    return [each.example for each in found]


def read(
    run: Run, files: Sequence[Source], form: Literal["auto"] | Form, mistakes: Mistakes, *, of_data: bool = True,
) -> list[Read]:
    """of_data: whether [data] names the files, so that its templates and its form are meant for them; for captured
    answers they are where it names nothing else."""
    data = run.recipe.data or Data(train=("",))
    own = templates(data, run.file)
    only_captured = all(said.startswith(CAPTURED) for said in (*data.train, *data.validation, *data.test))
    found = []
    for source in files:
        if of_data and (source.kind != "captured" or only_captured):
            found += _file(source, form, mistakes, own)
        elif source.kind == "captured":
            found += _file(source, "chat" if of_data and form != "prompts" else form, mistakes, own, of_captured)
        else:
            found += _file(source, form, mistakes, own, of_other_tables)
    return found


def counted(rows: Iterable[Read], tokenizer: Any, mistakes: Mistakes) -> Iterator[Read]:
    """With their tokens; without those that the chat template refuses, which are mistakes. Raises InvalidRequest where
    there is no template."""
    require_template(tokenizer)
    for each in rows:
        try:
            yield replace(each, tokens=token_counts(tokenizer, each.example))
        except InvalidRequest as error:
            mistakes.add(each.place, error.message.removeprefix(f"example {each.example.id}: "))


def _file(
    source: Source, said: Literal["auto"] | Form, mistakes: Mistakes, own: Templates,
    meant: Callable[[Templates, dict[str, Any]], Templates] | None = None,
) -> list[Read]:
    """meant: what of the templates is for a row; None: all."""
    rows = list(read_rows(source, mistakes))
    # A captured answer is a conversation, whatever other files are.
    form = "chat" if source.kind == "captured" and said == "auto" else said
    if form == "auto":
        form = _detected(source, rows, own)
    found = []
    for row in rows:
        made = own if meant is None else meant(own, row.values)
        try:
            found.append(Read(example_of(row.values, form, made), row.place))
        except WrongRow as error:
            mistakes.add(row.place, str(error))
            continue
        if has_thoughts(row.values):
            mistakes.thoughts += 1
    return found


def _detected(source: Source, rows: list[Row], own: Templates) -> Form:
    if not rows:
        return "pairs"
    named = {name: None for row in rows for name in row.values}
    values: list[dict[str, Any]] = [row.values for row in rows]
    if (form := detect(named, values, own)) is None:
        raise ConfigError(
            f"nobody can tell prompt and answer by its columns ({', '.join(list(named)[:20])}); known are "
            f"{' or '.join(CHAT[:2])}; one of {', '.join(PROMPTS)} with one of {', '.join(ANSWERS)}; or {CHOSEN} and "
            f"{REJECTED}. Templates in [data] make them of any columns, as in prompt = \"{{{{ text }}}}\"",
            file=source.title)
    return form
