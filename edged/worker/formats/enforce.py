"""What an answer with tools and thoughts is held to, as one grammar and the text after which it begins."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from edged.errors import InvalidRequest
from edged.types import Constraint, JsonObject, JsonSchema, Regex
from edged.worker.formats import harmony
from edged.worker.formats.family import CallGrammar, Family
from edged.worker.formats.lark import TEXT, Spelling
from edged.worker.formats.thinking import Tags

Choice = Literal["none", "auto", "required"]


@dataclass(frozen=True, slots=True)
class Enforced:
    """For `Constraints.compile`. rule None: nothing, after the budget."""

    rule: Constraint | str | None
    after: str | None = None
    optional: bool = False
    budget: int | None = None


def with_calls(
    family: Family, calls: CallGrammar, choice: Choice, content: Constraint | None, spell: Spelling, *,
    after: str | None, tags: Tags | None = None,
) -> Enforced | None:
    """content: what the words must be, where there are words. after: the tag that ends the thought that the prompt
    opened, None where it opened none. tags: of a thought that the model may open itself, which may hold the trigger."""
    words = TEXT if content is None else _expression(content)
    if family is harmony.HARMONY:
        rule = harmony.messages(
            spell, call=None if choice == "none" else calls.rest, final=None if choice == "required" else words)
        return Enforced(_lark(rule, calls.rules), after)
    if choice == "none":
        return _no_calls(family, content, spell, after)
    trigger = spell(family.trigger) if family.trigger else ""
    if choice == "required":
        return Enforced(_lark(f"start: GAP? {trigger} {calls.rest}", calls.rules, _GAP), after)
    if content is not None:
        return Enforced(_lark(f"start: GAP? ({trigger} {calls.rest} | {words})", calls.rules, _GAP), after)
    if not trigger:
        rules = [_GAP, r"WORDS: /\s*[^{\s](.|\n)*/"]
        return Enforced(_lark(f"start: GAP? ({calls.rest}) | WORDS?", calls.rules, *rules), after)
    if after is not None:
        return Enforced(_lark(f"start: {_words_or_calls(family, calls, spell, TEXT)}", calls.rules), after)
    if tags is not None:
        return Enforced(_lark("start: thought? words", calls.rules, *_thought_first(family, calls, spell, tags)))
    return Enforced(_lark(f"start: {calls.rest}", calls.rules), family.trigger, optional=True)


def _words_or_calls(family: Family, calls: CallGrammar, spell: Spelling, words: str) -> str:
    """With the rule that ends the words before a call."""
    lazy = "" if spell.controls(family.trigger) else "[lazy]"
    return f"head {calls.rest} | {words}\nhead{lazy}: {words} {spell(family.trigger)}"


def _thought_first(family: Family, calls: CallGrammar, spell: Spelling, tags: Tags) -> list[str]:
    if spell.controls(tags.opening):
        thought = f"thought: {spell(tags.opening)} {TEXT} {spell(tags.closing)}"
        return [thought, f"words: {_words_or_calls(family, calls, spell, TEXT)}"]
    opening = _regex_text(tags.opening)
    return [
        f"thought[lazy]: /\\s*{opening}(.|\\n)*/ {spell(tags.closing)}",
        f"words: {_words_or_calls(family, calls, spell, 'WORDS')}",
        f"WORDS: {TEXT} & ~/\\s*{opening}(.|\\n)*/",
    ]


def without_calls(
    family: Family | None, content: Constraint | None, spell: Spelling, *, after: str | None
) -> Enforced | None:
    """Words only, as `content` says."""
    if content is None:
        return None
    if family is harmony.HARMONY:
        return Enforced(harmony.messages(spell, call=None, final=_expression(content)), after)
    return Enforced(content, after)


_GAP = r"GAP: /[ \n]{1,4}/"


def _lark(rule: str, *rules: str | list[str]) -> str:
    lines = [rule]
    for more in rules:
        lines.extend([more] if isinstance(more, str) else more)
    return "\n".join(lines)


def _no_calls(family: Family, content: Constraint | None, spell: Spelling, after: str | None) -> Enforced | None:
    if content is not None:
        return Enforced(content, after)
    if not family.trigger:
        return None
    if spell.controls(family.trigger):
        return Enforced(f"start: {TEXT}", after)
    never = _regex_text(family.trigger)
    return Enforced(f"start: WORDS\nWORDS: {TEXT} & ~/(.|\\n)*{never}(.|\\n)*/", after)


def _regex_text(text: str) -> str:
    text = text.rstrip()
    return "".join(f"\\{one}" if one in r"\.+*?()|[]{}^$/#&-~" else one for one in text)


def _expression(content: Constraint) -> str:
    match content:
        case JsonObject():
            return '%json {"type": "object"}'
        case JsonSchema(schema=schema):
            return f"%json {schema}"
        case Regex(pattern=pattern):
            bare = re.sub(r"\\.|/", lambda match: r"\/" if match[0] == "/" else match[0], pattern, flags=re.DOTALL)
            return "/" + bare.replace("\n", r"\n") + "/"
        case _:
            raise InvalidRequest(
                "A `grammar` of type lark or gbnf does not go together with tools or with this model's thinking; "
                "leave one of them out, or give the format as a JSON Schema or a regular expression.", param="grammar",
            )
