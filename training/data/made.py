"""What stage data tells of the data: for lineage, for `report.json`, and as a table for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from msgspec import Struct

from training.data.read import Read
from training.split import SPLITS, SplitName


class Spread(Struct, frozen=True):
    """Of counts of tokens."""

    least: int
    median: int
    p95: int
    most: int
    mean: float


class Lengths(Struct, frozen=True, kw_only=True):
    """Of one split, in tokens of the base's tokenizer through its chat template. tokens: of all examples together."""

    prompt: Spread
    answer: Spread
    whole: Spread
    tokens: int


class FileRead(Struct, frozen=True):
    """One source. sha256: of a folder, a digest of all its files."""

    title: str
    split: SplitName
    sha256: str
    rows: int


class DataMade(Struct, frozen=True, kw_only=True):
    """digest: over the three splits as they were written, so over all that is learned and measured on. dropped: rows
    left out, by reason. strata: by name, examples in each split. near: training prompts that are similar to a held-out
    one though not the same, by the split that holds it, and which were kept."""

    digest: str
    train: int
    validation: int
    test: int
    dropped: dict[str, int]
    lengths: dict[SplitName, Lengths]
    strata: dict[str, dict[SplitName, int]]
    files: tuple[FileRead, ...]
    near: dict[SplitName, int] = {}


def spread(counts: Sequence[int]) -> Spread:
    """Nearest-rank percentiles. counts: one at least."""
    ordered = sorted(counts)

    def at(percent: int) -> int:
        return ordered[max(0, -(-percent * len(ordered) // 100) - 1)]

    return Spread(ordered[0], at(50), at(95), ordered[-1], round(sum(ordered) / len(ordered), 1))


def lengths_of(counts: Sequence[tuple[int, int]]) -> Lengths:
    """counts: tokens of prompt and answer of each example, of one at least."""
    prompts, answers = [prompt for prompt, _ in counts], [answer for _, answer in counts]
    whole = [prompt + answer for prompt, answer in counts]
    return Lengths(prompt=spread(prompts), answer=spread(answers), whole=spread(whole), tokens=sum(whole))


def strata_of(splits: Mapping[SplitName, Sequence[Read]]) -> dict[str, dict[SplitName, int]]:
    """Empty where no example has a stratum."""
    found: dict[str, Counter[SplitName]] = {}
    for name in SPLITS:
        for each in splits.get(name, ()):
            if each.example.stratum is not None:
                found.setdefault(each.example.stratum, Counter())[name] += 1
    return {stratum: {name: found[stratum][name] for name in SPLITS} for stratum in sorted(found)}


def table(made: DataMade) -> str:
    """Lines of at most 100 characters, but for long names of strata."""
    lines = [f"{'':<12}{'examples':>10}{'tokens':>12}   prompt (median, most)   answer (median, most)"]
    for name, count in zip(SPLITS, (made.train, made.validation, made.test), strict=True):
        line = f"{name:<12}{count:>10,}"
        if (length := made.lengths.get(name)) is not None:
            line += f"{length.tokens:>12,}{length.prompt.median:>11,}{length.prompt.most:>12,}" \
                    f"{length.answer.median:>12,}{length.answer.most:>12,}"
        lines.append(line)
    if made.dropped:
        lines.append("left out: " + ", ".join(f"{count:,} {words(reason)}" for reason, count in made.dropped.items()))
    if made.strata:
        wide = max(map(len, made.strata))
        lines.append("")
        lines.append(f"{'stratum':<{wide}}" + "".join(f"{name:>12}" for name in SPLITS))
        lines += [f"{stratum:<{wide}}" + "".join(f"{counts[name]:>12,}" for name in SPLITS)
                  for stratum, counts in made.strata.items()]
    return "\n".join(lines) + "\n"


_WORDS = {
    "invalid": "that are no examples", "too_long": "longer than max_tokens", "over_limit": "beyond limit",
    "duplicate": "there twice", "contradiction": "with another answer to a prompt that is there before",
    "near_duplicate": "nearly the same as one before", "in_test": "of which the prompt is in test",
    "in_validation": "of which the prompt is in validation", "near_test": "of which nearly the prompt is in test",
    "near_validation": "of which nearly the prompt is in validation", "unfinished": "that were not finished",
}


def words(reason: str) -> str:
    return _WORDS.get(reason, reason)
