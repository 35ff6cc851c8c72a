"""Mistral's two formats after [TOOL_CALLS]: a JSON list of calls (tokenizer v3), and name and arguments apart (v11 on).

Source: the chat templates of mistralai/Mistral-Nemo-Instruct-2407, Mistral-Small-3.2-24B-Instruct-2506 and
Ministral-3-14B-Reasoning-2512.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from edged.worker.formats.family import CallGrammar, Family
from edged.worker.formats.lark import Callee, Spelling, json_calls, json_of, quoted, repeated
from edged.worker.formats.named_calls import NamedCalls
from edged.worker.formats.tagged import TaggedCalls

OPEN, ARGUMENTS, ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_HEAD = re.compile(r"\s*([\w.-]+)(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?\s*")


def list_parser(names: frozenset[str]) -> TaggedCalls:
    return TaggedCalls((OPEN,), ())


def list_grammar(functions: Sequence[Callee], *, parallel: bool, spell: Spelling) -> CallGrammar:
    return CallGrammar(f'/ ?/ "[" {repeated("call", "/, ?/", parallel)} "]"', json_calls(functions))


def list_write(name: str, arguments: str) -> str:
    return f'{OPEN}[{{"name": {quoted(name)}, "arguments": {arguments}}}]'


def named_parser(names: frozenset[str]) -> NamedCalls:
    return NamedCalls((OPEN,), (), _HEAD)


def named_grammar(functions: Sequence[Callee], *, parallel: bool, spell: Spelling) -> CallGrammar:
    rules = ["one: " + " | ".join(f"one_{index}" for index in range(len(functions)))]
    for index, function in enumerate(functions):
        head = f"{quoted(function.name)} ({spell(ID)} /[a-zA-Z0-9]{{9}}/)? {spell(ARGUMENTS)}"
        rules.append(f"one_{index}: {head} arguments_{index}")
        rules.append(f"arguments_{index}: {json_of(function.arguments)}")
    return CallGrammar(repeated("one", spell(OPEN), parallel), rules)


def named_write(name: str, arguments: str) -> str:
    return f"{OPEN}{name}{ARGUMENTS}{arguments}"


MISTRAL_LIST = Family(
    name="mistral_list", signs=(OPEN,), marks=(OPEN,), trigger=OPEN, parser=list_parser, grammar=list_grammar,
    write=list_write,
)
MISTRAL_NAMED = Family(
    name="mistral_named", signs=(OPEN, ARGUMENTS), marks=(OPEN, ARGUMENTS, ID), trigger=OPEN, parser=named_parser,
    grammar=named_grammar, write=named_write,
)
