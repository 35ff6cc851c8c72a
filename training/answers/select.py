"""Which answers are learned from, and with which weight: decisions over what teachers said, no I/O.

All samples of a prompt, of all teachers, vote: `agreement` is the share of those that were wanted, come or not, which
must say the same. Of answers that say the same one is kept. A teacher's kept answers to a prompt share its weight, so
that a prompt with many different answers counts no more than others.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct

from training.answers.filters import Objection, Reason, Sieve, calls_of
from training.answers.raw import Raw
from training.examples import Example, Message


class Rejected(Struct, frozen=True, kw_only=True):
    """An answer that is not learned from."""

    prompt: str
    teacher: str
    sample: int
    reason: Reason
    detail: str = ""
    answer: Message | None = None


class Selection(Struct, frozen=True, kw_only=True):
    """same: good answers that said what another one had said."""

    kept: tuple[Example, ...]
    rejected: tuple[Rejected, ...]
    same: int


def select(
    prompts: Iterable[Example], said: Mapping[str, Sequence[Raw]], sieve: Sieve, weights: Mapping[str, float], *,
    wanted: int,
) -> Selection:
    """said: answers by the id of their prompt, in the order of teachers and samples. weights: of teachers, by title.
    wanted: answers to each prompt, of which some may not have come. Raises what the sieve raises."""
    kept: list[Example] = []
    rejected: list[Rejected] = []
    same = 0
    for example in prompts:
        answers = said.get(example.id, ())
        objections = [sieve.objection(example, raw.reply.message, raw.reply.finish_reason) for raw in answers]
        objections = _voted(answers, objections, sieve.said.agreement, wanted)
        good = [raw for raw, objection in zip(answers, objections, strict=True) if objection is None]
        rejected += [_rejected(raw, objection) for raw, objection in zip(answers, objections, strict=True)
                     if objection is not None]
        examples = _merged(example, good, weights)
        kept += examples
        same += len(good) - len(examples)
    return Selection(kept=tuple(kept), rejected=tuple(rejected), same=same)


def meaning(answer: Message) -> str:
    """Equal for answers that say the same: blanks, and the spelling of JSON, are set aside."""
    calls = [[name, _plain(arguments) if isinstance(arguments, str) else arguments]
             for name, arguments in calls_of(answer)]
    return json.dumps([_plain(answer.content), calls], sort_keys=True)


def _plain(text: str) -> object:
    """A value of JSON as it is, any other text with single blanks. A text that looks like a value is never equal to
    one: the value is boxed."""
    try:
        return {"json": msgspec.json.decode(text)}
    except (msgspec.DecodeError, RecursionError):
        return " ".join(text.split())


def _voted(
    answers: Sequence[Raw], objections: list[Objection | None], agreement: float, wanted: int,
) -> list[Objection | None]:
    """Rejected answers and those that did not come count among all, and are no party."""
    if not agreement or not answers:
        return objections
    meanings = [meaning(raw.reply.message) for raw in answers]
    votes = Counter(said for said, objection in zip(meanings, objections, strict=True) if objection is None)
    most, count = votes.most_common(1)[0] if votes else ("", 0)
    missing = f"; {wanted - len(answers)} did not come" if len(answers) < wanted else ""
    against = Objection("disagrees", f"{count} of {wanted} say the same{missing}") \
        if count < agreement * wanted - 1e-9 else None
    minority = Objection("minority", f"{count} of {wanted} say something else")
    return [objection or against or (None if said == most else minority)
            for said, objection in zip(meanings, objections, strict=True)]


def _merged(example: Example, good: Sequence[Raw], weights: Mapping[str, float]) -> list[Example]:
    shares = Counter(raw.teacher for raw in good)
    by_meaning: dict[str, list[Raw]] = {}
    for raw in good:
        by_meaning.setdefault(meaning(raw.reply.message), []).append(raw)
    return [
        msgspec.structs.replace(
            example, answer=alike[0].reply.message, rejected=None,
            teacher="+".join(dict.fromkeys(raw.teacher for raw in alike)),
            weight=round(example.weight * sum(weights[raw.teacher] / shares[raw.teacher] for raw in alike), 6))
        for alike in by_meaning.values()
    ]


def _rejected(raw: Raw, objection: Objection) -> Rejected:
    return Rejected(prompt=raw.prompt, teacher=raw.teacher, sample=raw.sample, reason=objection.reason,
                    detail=objection.detail, answer=raw.reply.message)
