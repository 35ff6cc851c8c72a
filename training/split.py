"""What the last training of a run learns from, and what it is judged by: the splits that stage `data` made, and what
teachers answered (`answers`).

Nothing that is held out is ever learned from: an answered prompt that is the same as one of validation or test (or, by
`data.near_duplicates`, nearly the same) is left out here, wherever it came from and whoever answered it.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Literal

from edged.errors import InvalidRequest
from training.examples import Example, read_examples
from training.run import Run

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
ANSWERS_FILE = "examples.jsonl"


def split_file(run: Run, name: SplitName) -> Path:
    return run.path("data") / f"{name}.jsonl"


def prompts_of(run: Run, name: SplitName) -> list[Example]:
    """All of a split, answered or not. Raises InvalidRequest where stage data has not ended, CorruptFile."""
    run.key("data")
    return list(read_examples(split_file(run, name)))


def training_examples(run: Run) -> list[Example]:
    """Those with an answer: the original ones unless the recipe sets them aside (`keep_data`), then the teachers'.
    Raises InvalidRequest where there is none, or a stage before has not ended; CorruptFile."""
    original = [] if _sets_data_aside(run) else _answered(prompts_of(run, "train"))
    taught = _of_teachers(run)
    # What the data itself holds out, stage data has taken out of the training split.
    if not (found := not_near(run, original, [*taught["validation"], *taught["test"]]) + taught["train"]):
        raise InvalidRequest("no example has an answer to learn from; give data.train answers (form pairs, chat or "
                             "preferences), or let a teacher answer the prompts ([distil.answers])")
    return found


def validation_examples(run: Run) -> list[Example]:
    """Those of the validation split that have an answer, one of each prompt. Where none has (data of prompts alone),
    the validation share of what teachers answered, by prompt, which is then not trained on. Raises as
    `training_examples`."""
    if not (found := _one_of_each(_answered(prompts_of(run, "validation")) or _of_teachers(run)["validation"])):
        raise InvalidRequest("no example of the validation split has an answer; name a file with answers in "
                             "data.validation, or let a teacher answer the prompts ([distil.answers])")
    return found


def test_examples(run: Run) -> list[Example]:
    """As `validation_examples`, of the test split; those of validation where the recipe has no test data."""
    return tested_apart(run) or validation_examples(run)


def tested_apart(run: Run) -> list[Example]:
    """As `test_examples`; none where the recipe has no test data."""
    return _one_of_each(_answered(prompts_of(run, "test")) or _of_teachers(run)["test"])


def held_out(run: Run) -> list[Example]:
    """All that may not be learned from: of the data, answered or not, then of what teachers answered."""
    taught = _of_teachers(run)
    return [*prompts_of(run, "validation"), *prompts_of(run, "test"), *taught["validation"], *taught["test"]]


def not_near(run: Run, examples: list[Example], others: Sequence[Example]) -> list[Example]:
    """Those whose prompts are none of the others', and by `data.near_duplicates` not nearly the same as one of them."""
    from training.data.near import Near, words_of

    data = run.recipe.data
    ids = {example.id for example in others}
    kept = [example for example in examples if example.id not in ids]
    if not others or data is None or data.near_duplicates is None:
        return kept
    near = Near((words_of(example) for example in (*others, *kept)), data.near_duplicates)
    for index in range(len(others)):
        near.add(index)
    return [example for index, example in enumerate(kept, len(others)) if near.like(index) is None]


def shared_out(
    groups: Sequence[tuple[str, str | None]], shares: dict[SplitName, float], seed: int,
) -> dict[str, SplitName]:
    """Split by stratum. groups: an id that is kept together, and its stratum, each id once. shares: of validation and
    test, each 0 or more; the rest is for training. Returns the split of every id.

    Every split gets its share of all ids, rounded (but one at least, where its share is not 0 and there is one left),
    and of every stratum its share within two. Which ids these are depends on the seed and the ids alone, not on their
    order: sklearn's stratified splits refuse a stratum with one member and change with the order of rows.
    """
    left: dict[str | None, list[str]] = defaultdict(list)
    for group, stratum in groups:
        left[stratum].append(group)
    for members in left.values():
        members.sort(key=lambda group: _drawn(seed, group))
    found: dict[str, SplitName] = {group: "train" for group, _ in groups}
    for name, share in shares.items():
        if share == 0:
            continue
        wanted = max(1, round(len(groups) * Fraction(str(share))))
        for stratum, count in _apportioned({key: len(members) for key, members in left.items()}, wanted, seed).items():
            found.update(dict.fromkeys(left[stratum][:count], name))
            left[stratum] = left[stratum][count:]
    return found


def _apportioned(sizes: dict[str | None, int], wanted: int, seed: int) -> dict[str | None, int]:
    """By largest remainders (Hamilton's method): the counts sum up to what is wanted, or to all there is."""
    total = sum(sizes.values())
    if wanted >= total:
        return sizes
    exact = {stratum: Fraction(size * wanted, total) for stratum, size in sizes.items()}
    counts = {stratum: int(share) for stratum, share in exact.items()}
    order = sorted(exact, key=lambda stratum: (counts[stratum] - exact[stratum], _drawn(seed, str(stratum))))
    for stratum in order[:wanted - sum(counts.values())]:
        counts[stratum] += 1
    return counts


def _drawn(seed: int, group: str) -> str:
    return hashlib.sha256(f"{seed}:{group}".encode()).hexdigest()


def _answered(examples: Iterable[Example]) -> list[Example]:
    return [example for example in examples if example.answer is not None]


def _one_of_each(examples: Sequence[Example]) -> list[Example]:
    """Of each prompt the answer that most say, by weight; of equals the first. A prompt has one right answer where it
    is measured: two that contradict each other can never both be said."""
    from training.answers.select import meaning

    votes: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    first: dict[tuple[str, str], Example] = {}
    for example in examples:
        assert example.answer is not None
        said = meaning(example.answer)
        votes[example.id][said] += example.weight
        first.setdefault((example.id, said), example)
    return [first[prompt, max(answers, key=answers.__getitem__)] for prompt, answers in votes.items()]


def _sets_data_aside(run: Run) -> bool:
    distil = run.recipe.distil
    return distil is not None and distil.answers is not None and not distil.answers.keep_data


def _of_teachers(run: Run) -> dict[SplitName, list[Example]]:
    """What teachers answered is for training; of each held-out split in which no example of the data has an answer, the
    data's share of it is held out, by prompt."""
    found: dict[SplitName, list[Example]] = {name: [] for name in SPLITS}
    recipe = run.recipe
    if recipe.distil is None or recipe.distil.answers is None:
        return found
    run.key("answers")
    validation, test = prompts_of(run, "validation"), prompts_of(run, "test")
    answered = not_near(run, list(read_examples(run.path("answers") / ANSWERS_FILE)), [*validation, *test])
    shares: dict[SplitName, float] = {} if recipe.data is None else {
        "validation": 0.0 if _answered(validation) else recipe.data.validation_share,
        "test": 0.0 if _answered(test) else recipe.data.test_share}
    strata = {example.id: example.stratum for example in answered}
    splits = shared_out(list(strata.items()), shares, recipe.seed)
    for example in answered:
        found[splits[example.id]].append(example)
    return found
