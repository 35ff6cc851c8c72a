"""Stage `answers`: teachers answer prompts; `examples.jsonl` is what is learned from, `rejected.jsonl` what is not and
why, `raw.jsonl` all that came, with the log probabilities that were asked for.

An answer is asked for once: another attempt, other filters or more samples go on with what `raw.jsonl` has.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from edged.errors import ConfigError, InvalidRequest
from edged.store import files
from training.answers.answered import Answered, Told, words
from training.answers.asking import STAGE, Account, Ask, ask_teacher, known_of
from training.answers.filters import check_tools, sieve
from training.answers.raw import Raw, RawFile
from training.answers.select import Rejected, Selection, select
from training.answers.teachers import Wanted, from_endpoint, from_folder
from training.answers.thoughts import without_thought
from training.endpoint import check as check_endpoint
from training.examples import Example, write_examples
from training.models import base_folder, base_key
from training.pupil import pupil_key, pupils_tokenizer, require_prompts, unlearnable
from training.recipe import Answers, Recipe, Teacher
from training.run import Moment, Run, Tell, digest
from training.split import ANSWERS_FILE, not_near, prompts_of
from training.stage import StageKind

PROMPTS_KEY = ("distil", "answers", "prompts")
RAW_FILE, REJECTED_FILE, REPORT_FILE = "raw.jsonl", "rejected.jsonl", "report.json"
#: What of a teacher its answers depend on.
_SAMPLING = ("temperature", "top_p", "max_tokens")


def _table(recipe: Recipe) -> Answers:
    assert recipe.distil is not None
    assert recipe.distil.answers is not None
    return recipe.distil.answers


def _wanted(recipe: Recipe) -> bool:
    return recipe.distil is not None and recipe.distil.answers is not None


def _key(run: Run) -> str:
    table = _table(run.recipe)
    said = msgspec.to_builtins(table)
    for teacher in said["teachers"]:
        # How it is asked, not what it answers.
        del teacher["concurrency"], teacher["api_key_env"]
    named = [table.filters.schema, (table.filters.validator or "").rpartition(":")[0] or None]
    return digest(said, run.recipe.seed, run.key("data"), [_identity(run, teacher) for teacher in table.teachers],
                  [_hash(run.at(name)) for name in named if name is not None], _prompts_key(run), pupil_key(run))


def _run(run: Run, tell: Tell) -> Answered:
    table = _table(run.recipe)
    check(run, table)
    folder = run.path(STAGE)
    tokenizer = pupils_tokenizer(run, tell)
    sifting = sieve(table.filters, run.at, partial(_mistake, run, "filters"),
                    unlearnable(tokenizer) if tokenizer is not None else None)
    prompts, left_out = _prompts(run, tell, tokenizer)
    check_tools(prompts)
    require_prompts(run, tokenizer, prompts)
    account = Account(most=table.max_cost, logprobs=table.logprobs > 0)
    wanted = {teacher.title: _all_wanted(run, teacher, table, prompts) for teacher in table.teachers}
    said: dict[str, list[Raw]] = defaultdict(list)
    thoughts = 0
    with RawFile(folder / RAW_FILE) as raw:
        known = {teacher.title: known_of(teacher, wanted[teacher.title], raw=raw, account=account)
                 for teacher in table.teachers}
        for teacher in table.teachers:
            asker = _asker(run, teacher, table, known[teacher.title] > 0, tell)
            ask_teacher(teacher, wanted[teacher.title], asker, raw=raw, account=account, tell=tell)
            for each in wanted[teacher.title]:
                if (found := raw.known.get(each.ask)) is not None:
                    reply = without_thought(found.reply)
                    thoughts += reply is not found.reply
                    # The title that the recipe gives now, whatever it was when the teacher answered.
                    said[each.example.id].append(msgspec.structs.replace(found, teacher=teacher.title, reply=reply))
    _note(tell, account, table, sum(map(len, wanted.values())))
    if thoughts:
        tell(Moment(stage=STAGE, note=f"{thoughts} answers began with a thought as text (<think>), which is cut off"))
    chosen = select(prompts, said, sifting, {teacher.title: teacher.weight for teacher in table.teachers},
                    wanted=table.samples * len(table.teachers))
    rejected = [*chosen.rejected, *(
        Rejected(prompt=each.example.id, teacher=title, sample=each.sample, reason="refused", detail=why)
        for each, title, why in account.refused)]
    files.publish_bytes(
        folder / REJECTED_FILE, b"".join(msgspec.json.encode(each) + b"\n" for each in rejected), folder)
    value = Answered(
        digest=write_examples(folder / ANSWERS_FILE, chosen.kept), prompts=len(prompts),
        covered=len({example.id for example in chosen.kept}), wanted=sum(map(len, wanted.values())),
        answers=account.answers, kept=len(chosen.kept), same=chosen.same,
        rejected=dict(Counter(each.reason for each in rejected)), left_out=left_out,
        prompt_tokens=account.prompt_tokens, completion_tokens=account.completion_tokens,
        cost=round(account.cost, 6), stopped=account.spent, teachers=_told(run, said, chosen))
    files.publish_bytes(folder / REPORT_FILE, msgspec.json.format(msgspec.json.encode(value), indent=2), folder)
    tell(Moment(stage=STAGE, note=words(value)))
    if not value.kept:
        raise InvalidRequest(f"no answer passed the filters ({words(value)}); see {folder / REJECTED_FILE}, and change "
                             "filters or teachers: the answers are kept")
    return value


ANSWERS = StageKind(name=STAGE, wanted=_wanted, key=_key, run=_run)


def check(run: Run, table: Answers) -> None:
    """What is wrong with the recipe, and with keys and addresses of teachers. Raises ConfigError with the place."""
    titles = Counter(teacher.title for teacher in table.teachers)
    for number, teacher in enumerate(table.teachers):
        if titles[teacher.title] > 1:
            raise run.file.mistake(("distil", "answers", "teachers", number),
                                   f"is one of {titles[teacher.title]} called {teacher.title}; give each a name")
        if table.samples > 1 and teacher.temperature == 0:
            raise run.file.mistake(("distil", "answers", "teachers", number, "temperature"),
                                   f"0 gives {table.samples} times the same; raise it, or set samples = 1")
        if teacher.endpoint is not None:
            try:
                check_endpoint(teacher.endpoint, teacher.api_key_env)
            except ConfigError as error:
                raise run.file.mistake(("distil", "answers", "teachers", number), error.message) from None
    if table.filters.agreement and table.samples * len(table.teachers) == 1:
        raise _mistake(run, "filters", "agreement", "needs more than one answer a prompt: set samples, or add a "
                                                    "teacher")


def _mistake(run: Run, table: str, key: str, message: str) -> ConfigError:
    return run.file.mistake(("distil", "answers", table, key), message)


def _prompts(run: Run, tell: Tell, tokenizer: Any | None) -> tuple[list[Example], int]:
    """What teachers are asked, each prompt once, and how many prompts are held out, or nearly the same as one that is.
    Without files of their own: the training split's."""
    table = _table(run.recipe)
    if not table.prompts:
        return list({example.id: example for example in prompts_of(run, "train")}.values()), 0
    from training.data.read import examples_of

    held_out = [*prompts_of(run, "validation"), *prompts_of(run, "test")]
    read = examples_of(run, table.prompts, PROMPTS_KEY, "prompts", lambda note: tell(Moment(stage=STAGE, note=note)),
                       tokenizer=tokenizer)
    found = {example.id: example for example in read}
    kept = not_near(run, list(found.values()), held_out)
    return kept, len(found) - len(kept)


def _prompts_key(run: Run) -> list[str]:
    named = _table(run.recipe).prompts
    if not named:
        return []
    from training.data.files import digest_of, sources

    return [digest_of(source) for source in sources(run, named, PROMPTS_KEY, "train")]


def _identity(run: Run, teacher: Teacher) -> str:
    """Of who answers: for a local model, of its files."""
    return f"{teacher.endpoint} {teacher.model}" if teacher.endpoint is not None else base_key(run, teacher.model)


def _all_wanted(run: Run, teacher: Teacher, table: Answers, prompts: Sequence[Example]) -> list[Wanted]:
    who = digest(_identity(run, teacher), [getattr(teacher, name) for name in _SAMPLING],
                 table.logprobs if teacher.endpoint is not None else 0)
    return [Wanted(digest(who, example.id, sample, seed), example, sample, seed)
            for example in prompts for sample in range(table.samples)
            for seed in [_seed(run.recipe.seed, sample)]]


def _seed(seed: int, sample: int) -> int:
    """31 bits, which every endpoint takes. Draws of different prompts differ by the prompts."""
    return int(digest("sample", seed, sample)[:8], 16) >> 1


def _asker(run: Run, teacher: Teacher, table: Answers, answered: bool, tell: Tell) -> Ask:
    if teacher.endpoint is not None:
        return partial(from_endpoint, teacher, logprobs=table.logprobs, answered=answered)
    if table.logprobs:
        tell(Moment(stage=STAGE, note=f"{teacher.title} is a model of this machine: no log probabilities are kept of "
                                      "it, since [distil.student.soft] computes them as they are needed"))
    return lambda wanted: from_folder(teacher, base_folder(run, teacher.model, tell), list(wanted))


def _note(tell: Tell, account: Account, table: Answers, wanted: int) -> None:
    if account.spent:
        tell(Moment(stage=STAGE, note=f"max_cost {table.max_cost} is reached ({account.cost:.4g}); the stage goes on "
                                      "with what is there"))
    if table.filters.agreement and account.answers < wanted:
        tell(Moment(stage=STAGE, note=f"{wanted - account.answers} of {wanted} answers did not come; agreement counts "
                                      "them among those that do not say the same"))
    if account.without:
        tell(Moment(stage=STAGE, note=f"{account.without} answers came without the log probabilities that were asked "
                                      "for: their endpoint does not give them"))
    if account.untold:
        tell(Moment(stage=STAGE, note=f"{account.untold} answers came without counts of tokens; cost leaves them out"))


def _told(run: Run, said: dict[str, list[Raw]], chosen: Selection) -> tuple[Told, ...]:
    came = Counter(raw.teacher for answers in said.values() for raw in answers)
    kept = Counter(title for example in chosen.kept for title in (example.teacher or "").split("+"))
    served = {(raw.teacher, raw.reply.served) for answers in said.values() for raw in answers}
    return tuple(
        Told(name=teacher.title, model=teacher.model, endpoint=teacher.endpoint,
             digest=None if teacher.endpoint is not None else _identity(run, teacher),
             answers=came[teacher.title], kept=kept[teacher.title],
             served=tuple(sorted(name for title, name in served if title == teacher.title and name is not None)))
        for teacher in _table(run.recipe).teachers)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "none"
