"""Asking teachers for what is not there yet, with what it costs, until all is there or the money is spent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from edged.errors import EdgedError, InvalidRequest, SourceUnavailable
from training.answers.raw import Raw, RawFile
from training.answers.teachers import Wanted
from training.recipe import Teacher
from training.reply import Reply
from training.run import Moment, Tell

_TOLD_EVERY_S = 0.25
#: So many refusals before anything was answered are a mistake in the recipe, not in the prompts.
_REFUSALS_AT_FIRST = 8
STAGE: Literal["answers"] = "answers"

#: Yields answers to what is wanted, as they come; reads no further than it has free places.
Ask = Callable[[Iterator[Wanted]], Iterator[tuple[Wanted, Reply | InvalidRequest]]]


@dataclass(slots=True)
class Account:
    """What was asked and what it cost so far, of all teachers; answers of earlier attempts count too. untold: answers
    whose endpoint told no counts of tokens. most: that may be spent. logprobs: are wanted of endpoints; without: new
    answers of endpoints that have none."""

    most: float | None = None
    logprobs: bool = False
    without: int = 0
    answers: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    untold: int = 0
    refused: list[tuple[Wanted, str, str]] = field(default_factory=list)

    @property
    def spent(self) -> bool:
        return self.most is not None and self.cost >= self.most

    def add(self, teacher: Teacher, reply: Reply) -> None:
        """Raises SourceUnavailable where a limit of cost cannot be kept."""
        self.answers += 1
        if reply.prompt_tokens is None or reply.completion_tokens is None:
            self.untold += 1
            if self.most is not None and _has_price(teacher):
                raise SourceUnavailable(f"teacher {teacher.title} does not tell how many tokens its answers take, so "
                                        "max_cost cannot be kept; leave max_cost or the prices out")
            return
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        self.cost += (reply.prompt_tokens * teacher.price_in + reply.completion_tokens * teacher.price_out) / 1e6


def known_of(teacher: Teacher, wanted: Sequence[Wanted], *, raw: RawFile, account: Account) -> int:
    """How many of `wanted` raw has. They enter the account, those of all teachers before the first one is asked."""
    known = [raw.known[each.ask] for each in wanted if each.ask in raw.known]
    for had in known:
        account.add(teacher, had.reply)
    return len(known)


def ask_teacher(
    teacher: Teacher, wanted: Sequence[Wanted], ask: Ask, *, raw: RawFile, account: Account, tell: Tell,
) -> None:
    """Those of `wanted` that raw does not have yet; `known_of` took account of the others. Ends early once the account
    is spent, if these answers cost something: what is under way then still comes, and costs. Raises what `ask` raises,
    and InvalidRequest where the teacher refuses all it is asked."""
    left = [each for each in wanted if each.ask not in raw.known]
    if not left:
        return
    known = len(wanted) - len(left)
    progress = _Progress(teacher, len(wanted), known, account, tell)
    refused = 0
    try:
        for each, reply in ask(_until(left, lambda: account.spent and _has_price(teacher))):
            if isinstance(reply, InvalidRequest):
                refused += 1
                account.refused.append((each, teacher.title, reply.message))
                if refused >= min(_REFUSALS_AT_FIRST, len(left)) and progress.came == 0 and not known:
                    raise reply
                continue
            raw.add(Raw(ask=each.ask, prompt=each.example.id, teacher=teacher.title, sample=each.sample, reply=reply))
            account.add(teacher, reply)
            account.without += account.logprobs and teacher.endpoint is not None and reply.logprobs is None
            progress.add(reply)
    except EdgedError as error:
        there = known + progress.came
        if there and not isinstance(error, InvalidRequest):
            raise SourceUnavailable(f"{error.message}. {there} of {len(wanted)} answers of {teacher.title} are kept; "
                                    "the same command asks for the others") from error
        raise
    progress.tell()


class _Progress:
    """came: answers since this attempt began."""

    def __init__(self, teacher: Teacher, wanted: int, known: int, account: Account, tell: Tell) -> None:
        self.came = 0
        self._what = f"teacher {teacher.title}"
        self._wanted, self._known, self._account, self._tell = wanted, known, account, tell
        self._tokens = 0
        self._began_s = self._told_s = time.monotonic()

    def add(self, reply: Reply) -> None:
        self.came += 1
        self._tokens += reply.completion_tokens or 0
        if time.monotonic() - self._told_s >= _TOLD_EVERY_S:
            self.tell()

    def tell(self) -> None:
        self._told_s = time.monotonic()
        seconds = max(self._told_s - self._began_s, 1e-9)
        figures = {"answers": float(self._known + self.came), "answers_per_second": self.came / seconds,
                   "tokens_per_second": self._tokens / seconds}
        if self._account.cost:
            figures["cost"] = self._account.cost
        self._tell(Moment(stage=STAGE, what=self._what, fraction=(self._known + self.came) / self._wanted,
                          figures=figures))


def _has_price(teacher: Teacher) -> bool:
    return bool(teacher.price_in or teacher.price_out)


def _until(wanted: Iterable[Wanted], ended: Callable[[], bool]) -> Iterator[Wanted]:
    for each in wanted:
        if ended():
            return
        yield each
