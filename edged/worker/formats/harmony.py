"""gpt-oss's harmony: an answer is a row of messages, each on a channel: analysis (thoughts), commentary (calls, and
words before them) or final (the answer).

Source: OpenAI, "OpenAI harmony response format"; the chat template of openai/gpt-oss-20b.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from edged.worker.formats.family import CallGrammar, Family
from edged.worker.formats.lark import TEXT, Callee, Spelling, json_of, quoted
from edged.worker.formats.parts import Calls, Marks, Parts
from edged.worker.formats.thinking import Tags

START, CHANNEL, MESSAGE, CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
ENDS = ("<|end|>", "<|return|>", "<|call|>")
ANALYSIS = f"{CHANNEL}analysis{MESSAGE}"
FINAL = f"{CHANNEL}final{MESSAGE}"
NEXT = f"{START}assistant"
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"to=functions\.([\w.-]+)")
#: How a head may begin: with its channel, or with whom it is for.
_HEAD_STARTS = (CHANNEL, MESSAGE, START, " to=", "to=", "assistant")


Kind = Literal["head", "reasoning", "content"]


class Harmony:
    """Several thoughts are told one below the other, and so are several texts for the user. kind: within which message
    the answer begins: reasoning, content, or head, before one."""

    def __init__(self, kind: Kind = "head") -> None:
        self._calls = Calls()
        self._body = Marks(START, *ENDS)
        self._head = ""
        self._kind: Kind | Literal["call"] = kind
        self._told = {"reasoning": False, "content": False}
        self._gap = {"reasoning": "", "content": ""}
        self._argued = False
        self._started = False

    @property
    def thinking(self) -> bool:
        """A head counts as thought while nothing but thoughts has come."""
        return self._kind == "reasoning" or (self._kind == "head" and not self._told["content"] and self._started)

    @property
    def calling(self) -> bool:
        return self._kind == "call"

    @property
    def held(self) -> int:
        return len(self._head) + self._body.held + len(self._gap.get(self._kind, ""))

    def push(self, text: str) -> Parts:
        parts = Parts()
        for character in text:
            if self._kind == "head":
                self._read_head(character, parts)
            else:
                said, mark = self._body.push(character)
                self._say(said, parts)
                if mark:
                    self._end_body(parts)
                    self._head = START if mark == START else ""
        return parts

    def finish(self) -> Parts:
        parts = Parts()
        if self._kind == "head":
            if not any(mark in self._head for mark in (CHANNEL, START, MESSAGE)) and not self._started:
                self._kind = "content"
                self._say(self._head, parts)
            self._head = ""
        else:
            self._say(self._body.flush(), parts)
        if self._kind in self._gap:
            self._append(self._kind, self._gap[self._kind], parts)
            self._gap[self._kind] = ""
        if self._kind == "call":
            self._end_body(parts)
        return parts

    def _read_head(self, character: str, parts: Parts) -> None:
        self._head += character
        head = self._head
        if not self._started and not any(head.startswith(start) or start.startswith(head) for start in _HEAD_STARTS):
            # No harmony at all: words.
            self._started, self._head, self._kind = True, "", "content"
            self._say(head, parts)
        elif head.endswith(MESSAGE):
            self._started, self._head = True, ""
            self._begin_body(head, parts)

    def _begin_body(self, head: str, parts: Parts) -> None:
        channel = _CHANNEL.search(head)
        recipient = _RECIPIENT.search(head)
        if recipient:
            self._kind, self._argued = "call", False
            parts.add_call(self._calls.begin(recipient[1]))
        elif channel and channel[1] == "analysis":
            self._kind = "reasoning"
        else:
            self._kind = "content"
        if self._kind != "call" and self._told[self._kind]:
            self._gap[self._kind] = "\n\n"

    def _end_body(self, parts: Parts) -> None:
        if self._kind == "call" and not self._argued:
            parts.add_call(self._calls.more("{}"))
        if self._kind in self._gap:
            self._gap[self._kind] = ""
        self._kind = "head"

    def _say(self, text: str, parts: Parts) -> None:
        if not text:
            return
        if self._kind == "call":
            if not self._argued:
                text = text.lstrip()
            if text:
                self._argued = True
                parts.add_call(self._calls.more(text))
            return
        gap = self._gap[self._kind]
        self._gap[self._kind] = ""
        self._append(self._kind, gap + text, parts)

    def _append(self, kind: str, text: str, parts: Parts) -> None:
        if kind == "reasoning":
            parts.reasoning += text
        else:
            parts.content += text
        self._told[kind] = self._told[kind] or bool(text)


def grammar(functions: Sequence[Callee], *, parallel: bool, spell: Spelling) -> CallGrammar:
    """After the name space of the recipient."""
    rules = []
    for index, function in enumerate(functions):
        head = f"{quoted(function.name)} / ?/ ({spell(CONSTRAIN)} \"json\")? {spell(MESSAGE)}"
        rules.append(f"one_{index}: {head} arguments_{index}")
        rules.append(f"arguments_{index}: {json_of(function.arguments)}")
    return CallGrammar("(" + " | ".join(f"one_{index}" for index in range(len(functions))) + ")", rules)


def messages(spell: Spelling, *, call: str | None, final: str | None) -> str:
    """A grammar of the rest of an answer: thoughts and words in any number, then the call or the final text. call,
    final: their expressions, None where there is to be none. The first message has no start if the prompt wrote it."""
    ends = []
    if call is not None:
        ends.append(f"{spell(CHANNEL)} \"commentary to=functions.\" {call}")
    if final is not None:
        ends.append(f"{spell(FINAL)} {final}")
    return "\n".join([
        f"start: ({spell(NEXT)})? message",
        f"message: between* ({' | '.join(ends)})",
        f"between: {spell(CHANNEL)} (\"analysis\" | \"commentary\") {spell(MESSAGE)} {TEXT} {spell('<|end|>' + NEXT)}",
        "",
    ])


def write(name: str, arguments: str) -> str:
    return f"{CHANNEL}commentary to=functions.{name} {CONSTRAIN}json{MESSAGE}{arguments}<|call|>"


HARMONY = Family(
    name="harmony", signs=(CHANNEL, START, MESSAGE), marks=(START, CHANNEL, MESSAGE, CONSTRAIN, *ENDS),
    parser=lambda names: Harmony(), grammar=grammar, trigger=f"{CHANNEL}commentary to=functions.", write=write,
    single=True, blind=True, tags=Tags(ANALYSIS, "<|end|>", gap=NEXT, always=True),
)
