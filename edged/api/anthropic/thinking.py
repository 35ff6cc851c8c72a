"""`thinking` and `output_config.effort` of Anthropic's requests, and the signatures of thinking blocks.

edged signs nothing: a client may replay any thinking it likes, as it may any text. `signature` is a required string of
the wire and says so. Where the client asked for thinking not to be shown (`display: "omitted"`), the signature holds
the thinking itself, so that the next turn has it, as Anthropic promises; it is encoded, not encrypted.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, cast

from edged.api.fields import (
    MAX_TOKENS,
    Table,
    accept,
    choice,
    integer,
    kind_schema,
    schema_of,
    served,
    takes,
    text,
    wrong,
)
from edged.errors import InvalidRequest, UnsupportedParameter
from edged.types import Reasoning

UNSIGNED = "unsigned"
_HOLDS = "edged-thinking."

Effort = Literal["low", "medium", "high"]


class Thinking(NamedTuple):
    """kind: as the request says it. shown: thinking blocks hold their text."""

    kind: Literal["enabled", "disabled", "adaptive"]
    budget: int | None = None
    shown: bool = True


_KIND: Table = {"type": served(text(), required=True)}
_DISPLAY: Table = {"display": served(choice("summarized", "omitted"))}
_KINDS: Mapping[str, Table] = {
    "enabled": _KIND | _DISPLAY | {"budget_tokens": served(integer(1, MAX_TOKENS), required=True)},
    "disabled": _KIND,
    "adaptive": _KIND | _DISPLAY,
}


@takes({"anyOf": [kind_schema(table, kind) for kind, table in _KINDS.items()]})
def thinking(value: Any, path: str) -> Thinking:
    if not isinstance(value, dict):
        raise wrong(path, 'an object like {"type": "enabled", "budget_tokens": 2048}')
    kind = value.get("type")
    if kind == "between_tools":
        raise UnsupportedParameter(
            f'`{path}.type` "between_tools" is not served; send "enabled", "adaptive" or "disabled".',
            param=f"{path}.type")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise wrong(f"{path}.type", '"enabled", "disabled" or "adaptive"')
    said = accept(_KINDS[kind], value, unknown="refuse", path=path).values
    return Thinking(
        cast(Literal["enabled", "disabled", "adaptive"], kind), said.get("budget_tokens"),
        said.get("display") != "omitted")


_known_effort = choice("low", "medium", "high")


@takes(schema_of(_known_effort))
def effort(value: Any, path: str) -> Effort:
    if value in ("xhigh", "max"):
        raise UnsupportedParameter(f'`{path}` is "{value}"; the most that models here know is "high".', param=path)
    return cast(Effort, _known_effort(value, path))


def reasoning(said: Thinking | None, wanted: Effort | None, max_tokens: int | None) -> Reasoning | None:
    """None leaves it to the model's template, as `adaptive` does where no effort is named. An effort alone is for how
    much is written at all, so no model has to think for it. Raises InvalidRequest where the budget leaves nothing for
    the answer."""
    if said is not None and said.kind == "disabled":
        return Reasoning(effort="none")
    if said is not None and said.kind == "enabled":
        if max_tokens is not None and said.budget is not None and said.budget >= max_tokens:
            raise InvalidRequest(
                f"`thinking.budget_tokens` is {said.budget} and must be below `max_tokens`, which is {max_tokens}.",
                param="thinking.budget_tokens")
        return Reasoning(effort=wanted, budget=said.budget)
    return None if wanted is None else Reasoning(effort=wanted, optional=True)


def sealed(thought: str) -> str:
    """The signature of a block that does not show its thinking."""
    return _HOLDS + base64.urlsafe_b64encode(thought.encode()).decode()


def unsealed(signature: str, path: str) -> str:
    """The thinking that a signature holds; none where it is another server's. Raises InvalidRequest where it is
    damaged."""
    if not signature.startswith(_HOLDS):
        return ""
    try:
        return base64.b64decode(signature.removeprefix(_HOLDS), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise wrong(path, "the signature as it was sent") from None
