"""One run's folder: what each stage made, and which stages have ended with what they were asked for.

    <folder>/recipe.toml             the recipe as it was read
    <folder>/data/                   train.jsonl validation.jsonl test.jsonl (`training.examples`), report
    <folder>/search/                 the study
    <folder>/answers/                examples.jsonl: what teachers answered and filters let through
    <folder>/finetune/ or student/   model/ (adapter or weights, with the tokenizer), checkpoints/, logs/
    <folder>/evaluate/               <subject>/: every item; report.html
    <folder>/raced.json              prompts whose answers were timed, which what serves may have kept
    <folder>/export/                 model/ or adapter/: what goes to a box
    <folder>/deploy/                 what is served
    <folder>/served/                 whether it answers as it did before

`<stage>/done.json` is written last, by rename; it holds a digest of all that the stage depended on, so a stage is done
again when the recipe or what came before it changed, and is passed over when not.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
from msgspec import Raw, Struct

from edged.errors import InvalidRequest
from edged.store import files
from edged.toml_file import TomlFile
from training.recipe import Recipe

StageName = Literal["data", "search", "answers", "student", "finetune", "evaluate", "export", "deploy", "served"]
Value = TypeVar("Value")

DONE_FILE = "done.json"


class Moment(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One moment of a stage. what: is being done (`training`, `teacher small`); fraction: 0 … 1 of it. figures: live
    ones, by name (loss, learning_rate, tokens_per_second, cost). note: something that a person should know."""

    stage: str
    what: str | None = None
    fraction: float | None = None
    figures: dict[str, float] = {}
    note: str | None = None


Tell = Callable[[Moment], None]


class Trained(Struct, frozen=True, kw_only=True):
    """What a training left. folder: relative to the run; kind: an adapter of peft over base, or whole weights, both in
    transformers' form with tokenizer and chat template. base: the model that it began from, as the recipe names it and
    `training.models.base_folder` takes it, None from scratch. metrics: validation loss and the like, for lineage.
    seconds: of training."""

    kind: Literal["adapter", "weights"]
    folder: str
    base: str | None
    steps: int
    seconds: float
    metrics: dict[str, float] = {}
    examples: int = 0
    tokens: int = 0


class _Marker(Struct, frozen=True):
    """at: when it ended, seconds since 1970."""

    key: str
    seconds: float
    value: Raw
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Run:
    """What every stage is given. Nothing in it changes: the state is on the disk."""

    folder: Path
    recipe: Recipe
    file: TomlFile

    def path(self, stage: StageName) -> Path:
        return self.folder / stage

    def begin(self, stage: StageName) -> Path:
        """Its folder, no longer marked as done; what is in it stays, for the stage to go on with."""
        self.unmark(stage)
        files.make_folder(self.path(stage))
        return self.path(stage)

    def unmark(self, stage: StageName) -> None:
        """It has not ended any more; what it made stays."""
        files.remove(self._marker(stage))

    def is_done(self, stage: StageName, key: str) -> bool:
        """With just this key."""
        try:
            return self._read(stage).key == key
        except InvalidRequest:
            return False

    def mark(self, stage: StageName, key: str, seconds: float, value: object) -> None:
        marker = _Marker(key, round(seconds, 3), Raw(msgspec.json.encode(value)), at=time.time())
        files.publish_bytes(self._marker(stage), msgspec.json.format(msgspec.json.encode(marker), indent=2),
                            self.path(stage))

    def value(self, stage: StageName, kind: type[Value]) -> Value:
        """What a stage that has ended returned. Raises InvalidRequest that says which stage to run."""
        try:
            return msgspec.json.decode(self._read(stage).value, type=kind)
        except msgspec.MsgspecError:
            raise self._damaged(stage) from None

    def ended(self, stage: StageName) -> bool:
        return self._marker(stage).exists()

    def key(self, stage: StageName) -> str:
        """The digest under which the stage has ended; later stages put it into theirs. Raises InvalidRequest."""
        return self._read(stage).key

    def ended_at(self, stage: StageName) -> float:
        """Seconds since 1970: another time where it was done again, be it with the same key. Raises InvalidRequest."""
        return self._read(stage).at

    def trained(self) -> Trained:
        """Of the last training. Raises InvalidRequest."""
        stage: StageName = "student" if self.recipe.distil is not None and self.recipe.distil.student is not None \
            else "finetune"
        return self.value(stage, Trained)

    def at(self, said: str) -> Path:
        """A path of the recipe, which counts from the recipe's own folder."""
        return (self.file.path.parent / Path(said).expanduser()).absolute()

    def _marker(self, stage: StageName) -> Path:
        return self.path(stage) / DONE_FILE

    def _read(self, stage: StageName) -> _Marker:
        try:
            return msgspec.json.decode(self._marker(stage).read_bytes(), type=_Marker)
        except FileNotFoundError:
            raise InvalidRequest(f"stage {stage} has not ended in {self.folder}; run it first: python -m training "
                                 f"{stage} --recipe {self.file.path}") from None
        except msgspec.MsgspecError:
            raise self._damaged(stage) from None

    def _damaged(self, stage: StageName) -> InvalidRequest:
        return InvalidRequest(f"{self._marker(stage)} is damaged, or of another version of edged; run the stage again: "
                              f"python -m training {stage} --again --recipe {self.file.path}")


def digest(*parts: object) -> str:
    """32 hex digits over JSON of the parts."""
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()[:32]
