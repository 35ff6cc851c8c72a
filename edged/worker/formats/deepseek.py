"""DeepSeek's two formats between its own control tokens: R1 and V3 write the arguments in a fence, V3.1 does not.

Source: the chat templates of deepseek-ai/DeepSeek-R1-Distill-Qwen-32B, DeepSeek-V3-0324 and DeepSeek-V3.1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from edged.worker.formats.family import CallGrammar, Family
from edged.worker.formats.lark import Callee, Spelling, json_of, quoted, repeated
from edged.worker.formats.named_calls import NamedCalls

CALLS, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, CALL_END, SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
_MARKS = (CALLS, CALLS_END, CALL, CALL_END, SEPARATOR)
_HEAD = re.compile(
    rf"\s*(?:function{SEPARATOR}([\w.-]+)\s*```(?:json)?\s*|([\w.-]+){SEPARATOR}\s*(?:```(?:json)?\s*)?)"
)


def parser(names: frozenset[str]) -> NamedCalls:
    return NamedCalls((CALLS, CALL), (CALL_END, CALLS_END, "```"), _HEAD)


def grammar(functions: Sequence[Callee], *, parallel: bool, spell: Spelling, fenced: bool) -> CallGrammar:
    rules = ["one: " + " | ".join(f"one_{index}" for index in range(len(functions)))]
    for index, function in enumerate(functions):
        if fenced:
            head = f"{spell('function' + SEPARATOR)} {quoted(function.name + chr(10) + '```json' + chr(10))}"
            tail = quoted("\n```")
        else:
            head, tail = f"{quoted(function.name)} {spell(SEPARATOR)}", ""
        rules.append(f"one_{index}: {spell(CALL)} {head} arguments_{index} {tail} {spell(CALL_END)}")
        rules.append(f"arguments_{index}: {json_of(function.arguments)}")
    return CallGrammar(f"{repeated('one', 'NEWLINE?', parallel)} {spell(CALLS_END)}",
                       [*rules, 'NEWLINE: "\\n"'])


def write(name: str, arguments: str, *, fenced: bool) -> str:
    call = f"function{SEPARATOR}{name}\n```json\n{arguments}\n```" if fenced else f"{name}{SEPARATOR}{arguments}"
    return f"{CALLS}{CALL}{call}{CALL_END}{CALLS_END}"


DEEPSEEK = Family(
    name="deepseek", signs=(CALLS, "```"), marks=_MARKS, trigger=CALLS, parser=parser,
    grammar=partial(grammar, fenced=True), write=partial(write, fenced=True),
)
DEEPSEEK_V3_1 = Family(
    name="deepseek_v3_1", signs=(CALLS,), marks=_MARKS, trigger=CALLS, parser=parser,
    grammar=partial(grammar, fenced=False), write=partial(write, fenced=False),
)
