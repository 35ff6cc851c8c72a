"""What is evaluated: a model in some form, in some place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msgspec import Struct

from edged.store.select import TRAINING_FILE
from training.digests import digests
from training.recipe import Recipe
from training.served import Loaded

Kind = Literal["hf", "endpoint"]


class About(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What results say of a subject: nothing of this machine. name: of its folder; title, precision: in words."""

    name: str
    kind: Kind
    title: str | None = None
    precision: str | None = None

    @property
    def shown(self) -> str:
        return self.title or self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """name: of its folder, and in the report; title: in words, where the name is too short.

    kind hf: a Hugging Face `folder`, with the `adapter` beside it or without, computed here by transformers in 32 bits.

    kind endpoint: `model` at an OpenAI-compatible `base_url` (…/v1), with `served_adapter` of edged or without;
    folder and adapter then name the Hugging Face original, whose tokenizer and template tell the tokens of a prompt,
    for the perplexity; None where there is none. artifact: the folder or GGUF that is served, of which weights and keys
    and values are told. loaded: what a daemon of this machine says of it, for its memory. identity: of what is served,
    such as its version's digest; None: nobody knows, so it is never taken for what was measured before. precision: in
    words, for the report.
    """

    name: str
    kind: Kind
    folder: Path | None = None
    adapter: Path | None = None
    base_url: str | None = None
    model: str | None = None
    served_adapter: str | None = None
    api_key_env: str | None = None
    artifact: Path | None = None
    loaded: Loaded | None = None
    identity: str | None = None
    title: str | None = None
    precision: str | None = None

    @property
    def shown(self) -> str:
        return self.title or self.name

    def about(self) -> About:
        return About(name=self.name, kind=self.kind, title=self.title, precision=self.precision)

    def marks(self, kept: Path) -> list[object] | None:
        """What is other where the subject is another: its identity, or for a folder names and contents of its files,
        wherever it lies. kept: as in `training.digests`. None where nobody can tell."""
        if self.kind == "endpoint":
            return None if self.identity is None else [self.identity, self.model, self.served_adapter]
        return [_contents(folder, kept) for folder in (self.folder, self.adapter) if folder is not None]


def names_here(recipe: Recipe) -> tuple[str, ...]:
    """Of all that `training.evaluate.stage.subjects_here` may return."""
    trains_student = recipe.distil is not None and recipe.distil.student is not None
    return ("teacher", "before", "student") if trains_student else ("before", "trained", "exported")


def _contents(folder: Path, kept: Path) -> list[tuple[str, str]]:
    """How the weights were measured, which an export says beside them, makes no other model of them."""
    paths = sorted(file for file in folder.iterdir() if file.is_file() and file.name != TRAINING_FILE)
    return list(zip((file.name for file in paths), digests(paths, kept), strict=True))
