"""Hermes 2 Pro's format, which Qwen 2.5 and 3, SmolLM3 and many others write: a JSON object between two tags.

Source: NousResearch/Hermes-Function-Calling; the chat templates of Qwen/Qwen2.5-7B-Instruct and Qwen/Qwen3-0.6B. It
also is what edged teaches models that know no format of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

from edged.worker.formats.family import CallGrammar, Family
from edged.worker.formats.lark import Callee, Spelling, json_calls, quoted, repeated
from edged.worker.formats.tagged import TaggedCalls

OPEN, CLOSE = "<tool_call>", "</tool_call>"


def parser(names: frozenset[str]) -> TaggedCalls:
    return TaggedCalls((OPEN,), (CLOSE,))


def grammar(functions: Sequence[Callee], *, parallel: bool, spell: Spelling) -> CallGrammar:
    return CallGrammar(repeated("one", spell(OPEN), parallel), [
        f"one: NEWLINE? call NEWLINE? {spell(CLOSE)} NEWLINE?", 'NEWLINE: "\\n"', *json_calls(functions),
    ])


def write(name: str, arguments: str) -> str:
    return f'{OPEN}\n{{"name": {quoted(name)}, "arguments": {arguments}}}\n{CLOSE}'


HERMES = Family(
    name="hermes", signs=(OPEN,), marks=(OPEN, CLOSE), trigger=OPEN, parser=parser, grammar=grammar, write=write,
)
#: SmolLM3's template (HuggingFaceTB/SmolLM3-3B): Hermes' calls, tools under the name `xml_tools`.
SMOLLM3 = Family(
    name="smollm3", signs=("xml_tools", "python_tools"), marks=(OPEN, CLOSE), trigger=OPEN, parser=parser,
    grammar=grammar, write=write, blind=True,
)
