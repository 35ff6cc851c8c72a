"""Phi-4-mini: a JSON list of calls between two control tokens.

Source: the model card of microsoft/Phi-4-mini-instruct for the prompt (tools as JSON in the system message, between
<|tool|> and <|/tool|>); Berkeley's function calling leaderboard, which reads what the model writes.
"""

from __future__ import annotations

from collections.abc import Sequence

from edged.worker.formats.family import CallGrammar, Family
from edged.worker.formats.lark import Callee, Spelling, json_calls, quoted, repeated
from edged.worker.formats.tagged import TaggedCalls

OPEN, CLOSE = "<|tool_call|>", "<|/tool_call|>"


def parser(names: frozenset[str]) -> TaggedCalls:
    return TaggedCalls((OPEN,), (CLOSE,))


def grammar(functions: Sequence[Callee], *, parallel: bool, spell: Spelling) -> CallGrammar:
    calls = repeated("call", '/, ?/', parallel)
    return CallGrammar(f'"[" {calls} "]" {spell(CLOSE)}', json_calls(functions))


def write(name: str, arguments: str) -> str:
    return f'{OPEN}[{{"name": {quoted(name)}, "arguments": {arguments}}}]{CLOSE}'


PHI4 = Family(
    name="phi4", signs=("<|tool|>", "<|/tool|>"), marks=(OPEN, CLOSE), trigger=OPEN, parser=parser, grammar=grammar,
    write=write, blind=True,
)
