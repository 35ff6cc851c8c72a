"""How much a model is to think: what its template is told, what is added to its prompt, and how many tokens it gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from edged.errors import InvalidRequest, UnsupportedParameter
from edged.types import Reasoning
from edged.worker.formats.habits import Habits
from edged.worker.formats.thinking import Tags

#: Tokens of thought for an effort, where the template knows no efforts. high: as long as it likes.
BUDGETS: dict[str, int | None] = {"minimal": 256, "low": 1024, "medium": 8192, "high": None}
#: gpt-oss knows no less than low.
_LEVELS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high"}

NOTHING = Reasoning()


@dataclass(frozen=True, slots=True)
class Wanted:
    """kwargs: of the template. budget: tokens of thought at most, None for any number. off: no thought at all."""

    kwargs: dict[str, Any]
    budget: int | None
    off: bool
    asked: bool


def wanted(reasoning: Reasoning, tags: Tags | None, habits: Habits, kwargs: dict[str, Any]) -> Wanted:
    """Raises UnsupportedParameter where a model that does not think is to think, and that is not optional."""
    effort, budget = reasoning.effort, reasoning.budget
    off = effort == "none" or budget == 0
    if tags is None:
        if reasoning.optional:
            return Wanted(kwargs, None, False, False)
        for name, asked in (("reasoning_effort", effort not in (None, "none")), ("reasoning_budget", bool(budget))):
            if asked:
                raise UnsupportedParameter(
                    f"This model does not think before it answers; leave `{name}` out.", param=name)
        return Wanted(kwargs, None, False, False)
    told: dict[str, Any] = {}
    if habits.switch is not None and (effort is not None or budget is not None):
        told[habits.switch] = not off
        if habits.switch in kwargs and bool(kwargs[habits.switch]) == off:
            raise InvalidRequest(
                f"`chat_template_kwargs.{habits.switch}` contradicts the effort asked for; leave one of them out.",
                param=f"chat_template_kwargs.{habits.switch}",
            )
    if effort is not None and not off:
        if habits.effort:
            told["reasoning_effort"] = _LEVELS[effort]
        elif budget is None:
            budget = BUDGETS[effort]
    asked = not off and (effort is not None or bool(budget))
    return Wanted({**told, **kwargs}, None if off else budget, off, asked)


Thought = Literal["opened", "closed", "free"]


def led(prompt: str, want: Wanted, tags: Tags | None, habits: Habits, *, enforced: bool) -> tuple[str, Thought]:
    """What to append to the prompt, and whether the answer then begins within a thought (opened), after it (closed),
    or as the model likes (free). enforced: something is enforced after the thought, so that it must have an end."""
    if tags is None:
        return "", "free"
    end = prompt.rstrip()
    if end.endswith(tags.closing) and not tags.always:
        return "", "closed"
    opened = end.endswith(tags.opening.rstrip())
    if want.off:
        if opened:
            return f"{tags.lead}{tags.closing}{tags.gap}", "closed"
        return ("", "free") if habits.switch is not None else (tags.skipped, "closed")
    if opened:
        return "", "opened"
    told = want.kwargs.get(habits.switch, habits.thinks) if habits.switch is not None else want.asked or tags.always
    if told and (enforced or want.budget is not None):
        return tags.begun, "opened"
    return "", "free"
