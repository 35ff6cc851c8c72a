"""Stage data: read → without those that are too long → without doubles and leaks → split → written, told."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from edged.errors import InvalidRequest
from edged.store import files
from training.data import files as data_files
from training.data.doubles import ORDER, Kept, near_leaks, without_doubles
from training.data.made import DataMade, FileRead, lengths_of, strata_of, table, words
from training.data.mistakes import Mistakes
from training.data.read import Read, counted, read
from training.examples import write_examples
from training.models import base_folder, base_key, tokenizer_of
from training.recipe import Data, Recipe
from training.run import Moment, Run, Tell, digest
from training.split import SPLITS, SplitName, shared_out, split_file
from training.stage import StageKind

#: Similarity of prompts that are told of, though not left out, where the recipe names no other.
NEAR = 0.8
_TOLD_EVERY = 200

_Splits = dict[SplitName, list[Read]]


def wanted(recipe: Recipe) -> bool:
    return recipe.data is not None


def key(run: Run) -> str:
    """Raises ConfigError where a file is not there."""
    found = [(name, source.title, data_files.digest_of(source)) for name, source in _sources(run)]
    return digest("data", run.recipe.data, run.recipe.seed, base_key(run), found)


def make(run: Run, tell: Tell) -> DataMade:
    """Raises ConfigError with everything that is wrong with rows; InvalidRequest where nothing is left of a split;
    CorruptFile; what `training.models.base_folder` raises."""
    data = _data(run)
    folder = run.path("data")
    mistakes, dropped = Mistakes(), Counter[str]()
    splits, read_files = _read(run, mistakes, tell)
    tokenizer = tokenizer_of(base_folder(run, tell=tell))
    splits = _counted(splits, tokenizer, mistakes, tell)
    mistakes.require(data.max_invalid_share)
    for note in mistakes.left_out():
        tell(Moment(stage="data", note=note))
    dropped["invalid"] += len(mistakes.found)
    if mistakes.thoughts:
        tell(Moment(stage="data", note=f"{mistakes.thoughts} answers come with thoughts (reasoning_content), which are "
                                       "not learned: a model that thinks unlearns it"))
    splits = _short(splits, data.max_tokens, dropped)
    kept = without_doubles(splits, data.near_duplicates)
    dropped.update(kept.dropped)
    _tell_doubles(kept, tell)
    splits = _split(run, _limited(kept.splits, data.limit, run.recipe.seed, dropped))
    _require_some(splits, data, dropped)
    near = near_leaks(splits, NEAR) if data.near_duplicates is None else {}
    for name, count in near.items():
        tell(Moment(stage="data", note=f"{count} training prompts say nearly the same as one of {name} (similarity "
                                       f"{NEAR} and more), which makes figures better than they are; "
                                       f"data.near_duplicates = {NEAR} leaves them out"))
    made = DataMade(
        digest=_write(run, splits), train=len(splits["train"]), validation=len(splits["validation"]),
        test=len(splits["test"]), dropped={reason: count for reason, count in dropped.items() if count},
        lengths={name: lengths_of([each.tokens for each in splits[name]]) for name in SPLITS if splits[name]},
        strata=strata_of(splits), files=read_files, near=near)
    files.publish_bytes(folder / "report.json", msgspec.json.format(msgspec.json.encode(made), indent=2), folder)
    files.publish_bytes(folder / "report.txt", table(made).encode(), folder)
    tell(Moment(stage="data", note=f"{made.train} examples to train on, {made.validation} to validate on, {made.test} "
                                   f"to test on; {folder / 'report.txt'} tells more"))
    return made


DATA = StageKind("data", wanted, key, make)


def _data(run: Run) -> Data:
    if run.recipe.data is None:
        raise InvalidRequest("this recipe has members and no data of its own; run its members")
    return run.recipe.data


def _sources(run: Run) -> list[tuple[SplitName, data_files.Source]]:
    data = _data(run)
    return [(name, source) for name in SPLITS
            for source in data_files.sources(run, getattr(data, name), ("data", name), name)]


def _read(run: Run, mistakes: Mistakes, tell: Tell) -> tuple[_Splits, tuple[FileRead, ...]]:
    splits: _Splits = {name: [] for name in SPLITS}
    found = []
    for name, source in _sources(run):
        tell(Moment(stage="data", what=f"reading {source.title}"))
        before = mistakes.rows
        sha256 = data_files.digest_of(source)
        splits[name] += read(run, [source], _data(run).form, mistakes)
        found.append(FileRead(source.title, name, sha256, mistakes.rows - before))
    return splits, tuple(found)


def _counted(splits: _Splits, tokenizer: Any, mistakes: Mistakes, tell: Tell) -> _Splits:
    """With their tokens. What the base's chat template refuses is wrong."""
    total = sum(map(len, splits.values()))
    done = itertools.count(1)

    def told(rows: list[Read]) -> Iterator[Read]:
        for each, number in zip(rows, done, strict=False):
            if number % _TOLD_EVERY == 0:
                tell(Moment(stage="data", what="counting tokens", fraction=number / total))
            yield each

    return {name: list(counted(told(splits[name]), tokenizer, mistakes)) for name in SPLITS}


def _short(splits: _Splits, most_tokens: int, dropped: Counter[str]) -> _Splits:
    short: _Splits = {
        name: [each for each in rows if sum(each.tokens) <= most_tokens] for name, rows in splits.items()}
    dropped["too_long"] += sum(len(splits[name]) - len(short[name]) for name in splits)
    return short


def _limited(splits: _Splits, limit: int | None, seed: int, dropped: Counter[str]) -> _Splits:
    """At most so many prompts of train, drawn by the seed; their order stays."""
    if limit is None:
        return splits
    drawn = set(sorted({each.example.id for each in splits["train"]},
                       key=lambda prompt: hashlib.sha256(f"{seed}:limit:{prompt}".encode()).digest())[:limit])
    few = [each for each in splits["train"] if each.example.id in drawn]
    dropped["over_limit"] += len(splits["train"]) - len(few)
    return {**splits, "train": few}


def _split(run: Run, splits: _Splits) -> _Splits:
    """What validation and test have no files for comes out of the answered prompts of train. Prompts alone are all for
    training; where nothing else is held out, they are split when they are answered (`training.split`)."""
    data = _data(run)
    answered = [each.example for each in splits["train"] if each.example.answer is not None]
    if not answered:
        return splits
    shares: dict[SplitName, float] = {
        "validation": 0.0 if data.validation else data.validation_share, "test": 0.0 if data.test else data.test_share}
    strata = {example.id: example.stratum for example in reversed(answered)}
    drawn = shared_out(list(strata.items()), shares, run.recipe.seed)
    found: _Splits = {name: list(splits[name]) for name in ORDER if name != "train"}
    found["train"] = []
    for each in splits["train"]:
        found[drawn.get(each.example.id, "train")].append(each)
    return found


def _require_some(splits: Mapping[SplitName, list[Read]], data: Data, dropped: Counter[str]) -> None:
    """Of every split that the recipe wants."""
    answered = any(each.example.answer is not None for each in splits["train"])
    for name in SPLITS:
        asked = name == "train" or getattr(data, name) or (answered and getattr(data, f"{name}_share"))
        if asked and not splits[name]:
            why = ", ".join(f"{count} {words(reason)}" for reason, count in dropped.items() if count)
            raise InvalidRequest(f"nothing is left for {name}"
                                 + (f"; left out were rows {why}" if why else "; there are too few rows")
                                 + f". Name more files in data.{name}, or change what leaves rows out")


def _write(run: Run, splits: Mapping[SplitName, list[Read]]) -> str:
    """The digest of what was written."""
    return digest([write_examples(split_file(run, name), (each.example for each in splits[name])) for name in SPLITS])


def _tell_doubles(kept: Kept, tell: Tell) -> None:
    for reason, place, first in kept.examples:
        tell(Moment(stage="data", note=f"{kept.dropped[reason]} rows {words(reason)} are left out, such as {place} "
                                       f"because of {first}"))


