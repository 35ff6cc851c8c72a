"""What a row tells as prompt and answer, by its columns or by the recipe's templates. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

from training.data.messages import conversation, require_whole, text, tools
from training.data.mistakes import WrongRow
from training.data.templates import Template, Templates, columns
from training.examples import Example, Message, identity

Form = Literal["chat", "pairs", "preferences", "prompts"]

CHAT = ("messages", "conversations", "conversation")
#: The first one that a row has; instruction before input, which may go with it.
PROMPTS = ("prompt", "question", "instruction", "input", "query")
ANSWERS = ("answer", "answers", "response", "output", "completion", "target")
CHOSEN, REJECTED = "chosen", "rejected"


def detect(named: Collection[str], rows: Sequence[dict[str, Any]], own: Templates) -> Form | None:
    """named: columns that some row has. None where they tell nothing."""
    has_prompt = own.prompt is not None or any(name in named for name in (*PROMPTS, *CHAT))
    if own.rejected is not None or (REJECTED in named and (CHOSEN in named or own.answer is not None)):
        return "preferences" if has_prompt or CHOSEN in named else None
    if own.prompt is None and any(name in named for name in CHAT):
        answered = own.answer is not None or any(_ends_with_answer(row) for row in rows)
        return "chat" if answered else "prompts"
    if not has_prompt:
        return None
    return "pairs" if own.answer is not None or any(name in named for name in ANSWERS) else "prompts"


def of_captured(own: Templates, values: dict[str, Any]) -> Templates:
    """What of [data]'s templates is for a captured answer beside other files: it is a conversation already, so those of
    prompt and answer have to name `messages`; and only those whose columns it has."""
    def meant(template: Template | None) -> Template | None:
        return template if template is not None and CHAT[0] in template.names else None

    return Templates(
        prompt=_fitting(meant(own.prompt), values), answer=_fitting(meant(own.answer), values),
        rejected=_fitting(meant(own.rejected), values), system=_fitting(own.system, values),
        stratum=_stratum_there(own, values))


def of_other_tables(own: Templates, values: dict[str, Any]) -> Templates:
    """What of [data]'s templates is for a row of a file that another table names: of a row that has columns of its own
    for something, only those whose columns it has too; and `chosen` and `rejected` go before templates that do not name
    them."""
    def over(template: Template | None, *instead: str) -> Template | None:
        return _fitting(template, values) if any(values.get(name) not in (None, "") for name in instead) else template

    def unless(template: Template | None, column: str) -> Template | None:
        there = values.get(column) not in (None, "")
        return template if template is None or not there or column in template.names else None

    return Templates(
        prompt=over(own.prompt, *PROMPTS, *CHAT, CHOSEN), answer=over(unless(own.answer, CHOSEN), CHOSEN, *ANSWERS),
        rejected=over(unless(own.rejected, REJECTED), REJECTED), system=over(own.system, "system"),
        stratum=_stratum_there(own, values))


def example_of(values: dict[str, Any], form: Form, own: Templates) -> Example:
    """Raises WrongRow with what would be right."""
    prompt, answer, rejected = _PARTS[form](values, own)
    prompt = _with_system(prompt, values, own)
    shown = tools(values.get("tools"))
    if prompt[-1].role not in ("user", "tool"):
        raise WrongRow(f"the prompt ends with the role {prompt[-1].role}; it has to end with a user or a tool")
    stratum = _stratum(values, own)
    require_whole((prompt, answer, rejected, shown, stratum))
    return Example(id=identity(prompt, shown), prompt=prompt, answer=answer, rejected=rejected, tools=shown,
                   stratum=stratum)


_Parts = tuple[tuple[Message, ...], Message | None, Message | None]


def _chat(values: dict[str, Any], own: Templates) -> _Parts:
    column = _column(values, CHAT, "a conversation")
    said = conversation(values[column], column)
    if said[-1].role == "assistant" and len(said) > 1:
        return said[:-1], _templated(own.answer, values) or said[-1], None
    if (answer := _templated(own.answer, values)) is not None:
        return said, answer, None
    raise WrongRow(f"`{column}` ends with {said[-1].role} and holds no answer; the last message has to be the "
                   "assistant's, after one of a user")


def _pairs(values: dict[str, Any], own: Templates) -> _Parts:
    prompt = _prompt(values, own)
    if (answer := _templated(own.answer, values)) is None:
        column = _column(values, ANSWERS, "an answer")
        answer = _said_last(values[column], column)
    return prompt, answer, None


def _preferences(values: dict[str, Any], own: Templates) -> _Parts:
    """chosen and rejected may be whole conversations, which then begin with the prompt."""
    chosen = _templated(own.answer, values)
    before: tuple[Message, ...] = ()
    if chosen is None:
        column = _column(values, (CHOSEN, *ANSWERS), "the better answer")
        chosen, before = _said_last(values[column], column), _said_before(values[column], column)
    rejected = _templated(own.rejected, values)
    if rejected is None:
        column = _column(values, (REJECTED,), "the worse answer")
        rejected = _said_last(values[column], column)
        if (other := _said_before(values[column], column)) != before:
            raise WrongRow("`chosen` and `rejected` answer different prompts"
                           if other and before else "only one of `chosen` and `rejected` begins with the prompt")
    if chosen == rejected:
        raise WrongRow("the better and the worse answer are the same")
    return before if before and own.prompt is None else _prompt(values, own), chosen, rejected


def _prompts(values: dict[str, Any], own: Templates) -> _Parts:
    asked = any(values.get(name) for name in PROMPTS) and not any(values.get(name) for name in CHAT)
    if own.prompt is not None or asked or not any(name in values for name in CHAT):
        return _prompt(values, own), None, None
    column = _column(values, CHAT, "a conversation")
    said = conversation(values[column], column)
    if said[-1].role == "assistant":
        said = said[:-1]
    if not said:
        raise WrongRow(f"`{column}` holds no prompt")
    return said, None, None


_PARTS = {"chat": _chat, "pairs": _pairs, "preferences": _preferences, "prompts": _prompts}


def _prompt(values: dict[str, Any], own: Templates) -> tuple[Message, ...]:
    if own.prompt is not None:
        return (Message("user", text(own.prompt(values), "prompt")),)
    column = _column(values, PROMPTS, "a prompt")
    value = values[column]
    if isinstance(value, list):
        return conversation(value, column)
    said = text(value, column)
    more = values.get("input") if column == "instruction" else None
    return (Message("user", f"{said}\n\n{text(more, 'input')}" if more else said),)


def _said_last(value: object, column: str) -> Message:
    """The answer: a text, or the last message of a conversation."""
    if _is_conversation(value):
        said = conversation(value, column)[-1]
        if said.role != "assistant":
            raise WrongRow(f"`{column}` ends with {said.role}; it has to end with the assistant")
        return said
    return Message("assistant", text(value, column))


def _said_before(value: object, column: str) -> tuple[Message, ...]:
    return conversation(value, column)[:-1] if _is_conversation(value) else ()


def _is_conversation(value: object) -> bool:
    """And no list that is itself the answer."""
    return isinstance(value, list) and bool(value) and isinstance(value[-1], dict) and (
        "role" in value[-1] or "from" in value[-1])


def _templated(template: Template | None, values: dict[str, Any]) -> Message | None:
    return Message("assistant", text(template(values), template.name)) if template is not None else None


def _with_system(prompt: tuple[Message, ...], values: dict[str, Any], own: Templates) -> tuple[Message, ...]:
    """The recipe's template goes before what the row says, that before its column `system`."""
    rest = prompt[1:] if prompt[0].role == "system" else prompt
    if own.system is not None:
        prompt = (Message("system", text(own.system(values), "system")), *rest)
    elif rest == prompt and isinstance(said := values.get("system"), str) and said.strip():
        prompt = (Message("system", said), *prompt)
    return prompt


def _stratum(values: dict[str, Any], own: Templates) -> str | None:
    match own.stratum:
        case None:
            return None
        case str(column):
            if column not in values:
                raise WrongRow(f"data.stratum is {column!r}, which is none of {columns(values)}")
            return text(values[column], column)
        case template:
            return template(values)


def _stratum_there(own: Templates, values: dict[str, Any]) -> Template | str | None:
    """None where the row has no column for it."""
    if isinstance(own.stratum, str):
        return own.stratum if own.stratum in values else None
    return _fitting(own.stratum, values)


def _fitting(template: Template | None, values: dict[str, Any]) -> Template | None:
    return template if template is not None and template.fits(values) else None


def _column(values: dict[str, Any], names: Sequence[str], what: str) -> str:
    """The first that there is and that holds something; else the first that there is, so that its emptiness is told."""
    here = [name for name in names if name in values]
    if not here:
        raise WrongRow(f"has no column for {what} ({', '.join(names)}); it has {columns(values)}. A template in [data] "
                       "makes one of any columns")
    return next((name for name in here if values[name] not in (None, "")), here[0])


def _ends_with_answer(values: dict[str, Any]) -> bool:
    for name in CHAT:
        value = values.get(name)
        if isinstance(value, str):
            return True
        if isinstance(value, list) and value and isinstance(value[-1], dict):
            return str(value[-1].get("role", value[-1].get("from"))).lower() in (
                "assistant", "gpt", "model", "bot", "chatgpt", "function_call")
    return False
