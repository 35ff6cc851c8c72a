"""One subject, measured: asked for every test item, its answers kept, figures made of them.

What was asked before and could not have come out otherwise since is not asked again: `asked.json` holds digests of what
the answers, the likelihoods and the grades depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from edged.errors import CorruptFile
from edged.store import files
from training.evaluate.asking import Asked, asked, together_tokens_per_s
from training.evaluate.choice import Chosen, choose
from training.evaluate.figures import figures_of
from training.evaluate.items import Grade, Item, Kept, Line, Loss, Said
from training.evaluate.judging import graded
from training.evaluate.metrics import kinds, one_by_one
from training.evaluate.results import Figure, Result
from training.evaluate.scoring import CannotScore
from training.evaluate.subject import Subject
from training.examples import Example
from training.recipe import Evaluate
from training.run import Moment, Tell, digest

ASKED_FILE, ITEMS_FILE, RESULT_FILE = "asked.json", "items.jsonl", "result.json"
_SAID, _LOSSES, _GRADES = "said.jsonl", "losses.jsonl", "grades.jsonl"


class _Asked(Struct, frozen=True):
    """Digests, by file. whole: the subject is measured; one that nobody can tell from another is then measured anew."""

    digests: dict[str, str] = {}
    whole: bool = False


def measure(
    subject: Subject, examples: Sequence[Example], settings: Evaluate, out: Path, tell: Tell, *,
    chosen: Chosen | None = None, seed: int = 0, stage: str = "evaluate",
) -> Result:
    """out: the subject's own folder, which is made. chosen: by `choose` over the training split too. Returns what
    result.json says, without memory and the speed of single requests (`training.evaluate.race`). Raises EdgedError of
    a subject that cannot be asked."""
    chosen = chosen or choose(settings, examples, ())
    progress = _Progress(subject.shown, stage, tell)
    files.make_folder(out)
    _forget_others(subject, examples, settings, chosen, out)
    said, losses, grades = Kept(out / _SAID, Said), Kept(out / _LOSSES, Loss), Kept(out / _GRADES, Grade)
    wants_losses = "perplexity" in chosen.metrics
    if _missing(examples, said) or (wants_losses and _missing(examples, losses)):
        progress("loading")
        with asked(subject, settings.batch_size) as open_subject:
            _keep(said, examples, lambda left: open_subject.said(left, settings.max_tokens), progress, "answers")
            if wants_losses:
                _keep_losses(open_subject, losses, examples, progress)
    if "judge" in chosen.metrics and settings.judge is not None:
        judge = settings.judge
        _keep(grades, examples, lambda left: graded(judge, [(one, said.lines[one.id]) for one in left]), progress,
              "grades")
    items = _items(examples, said, losses, grades)
    figures, strata, items = _figures(items, chosen, settings, seed)
    files.publish_bytes(out / ITEMS_FILE, b"".join(msgspec.json.encode(item) + b"\n" for item in items), out)
    result = Result(
        subject=subject.about(), items=len(items), failed=sum(item.said is None for item in items),
        unfinished=sum(item.finish_reason == "length" for item in items), figures=figures, strata=strata,
        together_tokens_per_s=together_tokens_per_s(said.lines.values()) if settings.performance else None,
        notes=_lacking(items, chosen))
    write_result(result, out)
    _write_asked(out, _Asked(_read_asked(out).digests, whole=True))
    return result


def write_result(result: Result, out: Path) -> None:
    files.publish_bytes(out / RESULT_FILE, msgspec.json.format(msgspec.json.encode(result), indent=2), out)


def read_items(out: Path) -> list[Item]:
    """Raises CorruptFile."""
    decoder = msgspec.json.Decoder(Item)
    try:
        return [decoder.decode(line) for line in (out / ITEMS_FILE).read_bytes().splitlines()]
    except (OSError, msgspec.MsgspecError) as error:
        raise CorruptFile(f"{out / ITEMS_FILE} is missing or damaged ({error}); run stage evaluate again") from error


class _Progress:
    def __init__(self, subject: str, stage: str, tell: Tell) -> None:
        self._subject = subject
        self._stage = stage
        self._tell = tell

    def __call__(self, what: str, done: int = 0, of: int = 1) -> None:
        self._tell(Moment(stage=self._stage, what=f"{self._subject}: {what}", fraction=done / of))


def _keep(
    kept: Kept[Line], examples: Sequence[Example], ask: Callable[[list[Example]], Iterator[Line]], progress: _Progress,
    what: str,
) -> None:
    left = _missing(examples, kept)
    with kept.appending() as append:
        for line in ask(left):
            append(line)
            progress(what, len(kept.lines), len(examples))


def _keep_losses(subject: Asked, losses: Kept[Loss], examples: Sequence[Example], progress: _Progress) -> None:
    try:
        _keep(losses, examples, subject.losses, progress, "perplexity")
    except CannotScore as why:
        with losses.appending() as append:
            for example in _missing(examples, losses):
                append(Loss(id=example.id, nats=None, error=str(why)))


def _lacking(items: Sequence[Item], chosen: Chosen) -> tuple[str, ...]:
    """What could not be measured, in words."""
    found = []
    if failed := [item for item in items if item.said is None]:
        found.append(f"{len(failed)} items got no answer, the first one because: {failed[0].error}")
    if "perplexity" in chosen.metrics and (lacking := [item for item in items if item.nats is None]):
        found.append(f"no perplexity of {len(lacking)} items: {lacking[0].nats_error}")
    if "judge" in chosen.metrics and (ungraded := [item for item in items if item.grade is None]):
        found.append(f"no grade of {len(ungraded)} items, the first one because: {ungraded[0].grade_why}")
    return tuple(found)


def _missing(examples: Sequence[Example], kept: Kept[Line]) -> list[Example]:
    return [example for example in examples if example.id not in kept.lines]


def _items(
    examples: Sequence[Example], said: Kept[Said], losses: Kept[Loss], grades: Kept[Grade],
) -> list[Item]:
    found = []
    for example in examples:
        answer, loss, grade = said.lines[example.id], losses.lines.get(example.id), grades.lines.get(example.id)
        assert example.answer is not None
        found.append(Item(
            id=example.id, stratum=example.stratum, expected=example.answer, said=answer.said,
            finish_reason=answer.finish_reason, prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens, seconds=answer.seconds, error=answer.error,
            nats=loss.nats if loss is not None else None, nats_tokens=loss.tokens if loss is not None else 0,
            nats_error=loss.error if loss is not None else None,
            grade=grade.grade if grade is not None else None, grade_why=grade.why if grade is not None else ""))
    return found


def _figures(
    items: list[Item], chosen: Chosen, settings: Evaluate, seed: int,
) -> tuple[dict[str, Figure], dict[str, dict[str, Figure]], list[Item]]:
    """And the items with their scores."""
    figures = figures_of(items, chosen, settings.resamples, seed)
    groups: dict[str, list[Item]] = {}
    for item in items:
        if item.stratum is not None:
            groups.setdefault(item.stratum, []).append(item)
    strata = {name: figures_of(group, chosen, settings.resamples, seed) for name, group in sorted(groups.items())}
    scores: list[dict[str, float]] = [{} for _ in items]
    for kind in kinds(chosen.metrics):
        for of_item, score in zip(scores, one_by_one(kind, kind.statistics(items, chosen.labels)), strict=True):
            if score is not None:
                of_item[kind.name] = round(score, 6)
    scored = [msgspec.structs.replace(item, scores=score) for item, score in zip(items, scores, strict=True)]
    return figures, strata, scored


def _forget_others(
    subject: Subject, examples: Sequence[Example], settings: Evaluate, chosen: Chosen, out: Path,
) -> None:
    """Files whose lines come from other questions, another subject or another judge."""
    marks = subject.marks(out.parent)
    asked_of = [subject.kind, marks, subject.model, subject.base_url if marks is None else None,
                [(example.id, example.answer) for example in examples]]
    said = digest(asked_of, settings.max_tokens)
    wanted = {_SAID: said, _LOSSES: digest(asked_of), _GRADES: digest(said, settings.judge)}
    before = _read_asked(out)
    anew = marks is None and before.whole
    for name, now in wanted.items():
        if anew or before.digests.get(name) != now:
            files.remove(out / name)
    _write_asked(out, _Asked(wanted))


def _read_asked(out: Path) -> _Asked:
    try:
        return msgspec.json.decode((out / ASKED_FILE).read_bytes(), type=_Asked)
    except (FileNotFoundError, msgspec.MsgspecError):
        return _Asked()


def _write_asked(out: Path, value: _Asked) -> None:
    files.publish_bytes(out / ASKED_FILE, msgspec.json.encode(value), out)
