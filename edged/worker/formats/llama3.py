"""Llama 3.1 to 3.3: the whole answer is one JSON object with name and parameters, sometimes after <|python_tag|>.

Source: the chat template of meta-llama/Llama-3.2-3B-Instruct; Meta's prompt formats, "JSON based tool calling". It
knows one call in an answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from edged.worker.formats.family import CallGrammar, Family
from edged.worker.formats.lark import Callee, Spelling, json_calls, quoted
from edged.worker.formats.tagged import TaggedCalls

TAG = "<|python_tag|>"


def parser(names: frozenset[str]) -> TaggedCalls:
    return TaggedCalls((TAG,), (), bare=names)


def grammar(functions: Sequence[Callee], *, parallel: bool, spell: Spelling) -> CallGrammar:
    return CallGrammar(f"({spell(TAG)})? call", json_calls(functions, arguments="parameters"))


def write(name: str, arguments: str) -> str:
    return f'{{"name": {quoted(name)}, "parameters": {arguments}}}'


LLAMA3 = Family(
    name="llama3", signs=("<|start_header_id|>", '"parameters": '), marks=(TAG,), parser=parser, grammar=grammar,
    write=write, single=True,
)
