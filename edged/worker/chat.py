"""How one model talks: from the messages, tools and reasoning of a request to its prompt, to what its answer is held
to, and to how its answer is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import msgspec

from edged.engines.base import Vocab
from edged.errors import InvalidRequest
from edged.types import ChatPrompt, GenerateRequest, ToolUse
from edged.worker.formats.conversation import fitted, instructions, with_instructions
from edged.worker.formats.detect import family_of, reads, tags_of
from edged.worker.formats.enforce import Enforced, with_calls, without_calls
from edged.worker.formats.family import Family, Unwritable
from edged.worker.formats.habits import Habits, Messages, learn
from edged.worker.formats.harmony import HARMONY, Harmony, Kind
from edged.worker.formats.hermes import HERMES
from edged.worker.formats.lark import Spelling
from edged.worker.formats.parts import Parser, Plain
from edged.worker.formats.thinking import Tags, Thinking
from edged.worker.formats.thoughts import NOTHING, Thought, led, wanted
from edged.worker.formats.toolbox import call_grammar, shown
from edged.worker.telling import PLAIN, Speech
from edged.worker.template import Child, Overdone, Template

#: Of a template whose own ways with tools are not made use of.
_TAUGHT: dict[str, Any] = {"tools": None, "calls": None, "results": False}


@dataclass(frozen=True, slots=True)
class Turn:
    """text: the prompt. enforced: what the answer is held to. looser: the same where that cannot be compiled, for
    functions that are not strict."""

    text: str
    speech: Speech = PLAIN
    enforced: Enforced | None = None
    looser: Enforced | None = None


class Chat:
    """Thread-safe. Where edged does not read the model's own format of calls, or has none to read, the model is taught
    Hermes' in the system message; where its template shows tools, calls or results not, they are written into what it
    shows. So no tool and no call is ever dropped without a word."""

    def __init__(self, source: str, vocab: Vocab, *, child: Child | None = None) -> None:
        """child: a renderer that was started in advance. Raises LoadFailed for a template that cannot be used."""
        self._template = Template(source, vocab.special, child=child)
        self._known = family_of(source)
        self._tags = tags_of(source, self._known)
        marks = [*(self._known or HERMES).marks, *((self._tags.opening, self._tags.closing) if self._tags else ())]
        self._control = _control_tokens(vocab, marks)
        self._spell = Spelling({mark: token for token, mark in self._control.items()})

    def close(self) -> None:
        self._template.close()

    def resident_bytes(self) -> int:
        """Of the processes for templates."""
        return self._template.resident_bytes()

    @cached_property
    def habits(self) -> Habits:
        """Learned when they are first asked for: plain chats with models that do not think need none."""
        return learn(self._try)

    @cached_property
    def native(self) -> Family | None:
        """The model's own format of calls."""
        return self._known if self._known is not None and reads(self._known, self.habits) else None

    def __call__(self, request: GenerateRequest) -> Turn:
        """Of a request with a ChatPrompt. Raises InvalidRequest and its kin."""
        prompt = request.prompt
        assert isinstance(prompt, ChatPrompt)
        if request.tools is not None and request.tools.functions:
            for family in dict.fromkeys((self.native or HERMES, HERMES)):
                try:
                    return self._with_tools(request, prompt, request.tools, family)
                except Unwritable:
                    continue  # the notation cannot be held to these schemas; JSON can
        plain = self._tags is None and not any(_of_tools(message) for message in prompt.messages)
        if plain:
            wanted(request.reasoning or NOTHING, None, Habits(), {})
            text = self._template.render(
                prompt.messages, None, prompt.template_kwargs, continued=prompt.continued)
            return Turn(text, enforced=without_calls(None, request.constraint, self._spell, after=None))
        return self._without_tools(request, prompt)

    def _without_tools(self, request: GenerateRequest, prompt: ChatPrompt) -> Turn:
        family = self.native
        habits = self.habits if family is not None else replace(self.habits, **_TAUGHT)
        messages = fitted(prompt.messages, habits, family or HERMES)

        def render(kwargs: dict[str, Any]) -> str:
            return self._rendered(messages, None, kwargs, habits=habits, continued=prompt.continued)

        text, thought, budget = self._led(request, prompt, render, enforced=request.constraint is not None)
        # An answer that goes on is in its final message already, as other families' always are.
        after = self._after(thought)
        enforced = without_calls(None if prompt.continued else family, request.constraint, self._spell, after=after)
        speech = self._speech(Plain, thought, continued=prompt.continued)
        return Turn(text, speech, _with_budget(enforced, after, budget))

    def _with_tools(self, request: GenerateRequest, prompt: ChatPrompt, tools: ToolUse, family: Family) -> Turn:
        """Raises Unwritable."""
        habits = self.habits if family is self.native else replace(self.habits, **_TAUGHT)
        grammar = call_grammar(tools, family, self._spell)
        text, thought, budget = self._led(
            request, prompt, partial(self._shown, prompt, tools, family, habits),
            enforced=request.constraint is not None or tools.choice != "none",
        )
        if family is HARMONY and prompt.continued:
            return self._in_final(request, tools, text)
        after = self._after(thought)
        hold = partial(
            with_calls, family, choice=tools.choice, content=request.constraint, spell=self._spell, after=after,
            tags=self._tags if thought == "free" else None)
        looser = None
        if not all(function.strict for function in tools.functions):
            looser = _with_budget(hold(call_grammar(tools, family, self._spell, loose=True)), after, budget)
        names = frozenset(function.name for function in tools.functions)
        inner: Callable[[], Parser] = Plain if tools.choice == "none" else partial(family.parser, names)
        speech = self._speech(inner, thought, continued=prompt.continued)
        return Turn(text, speech, _with_budget(hold(grammar), after, budget), looser)

    def _in_final(self, request: GenerateRequest, tools: ToolUse, text: str) -> Turn:
        """Harmony's last message has begun, within which there are no calls."""
        if tools.choice == "required":
            raise InvalidRequest(
                "This model cannot call a function within the answer that the last message begins. End with a message "
                "of the user.", param="messages")
        enforced = without_calls(None, request.constraint, self._spell, after=None)
        return Turn(text, self._speech(Plain, "closed", continued=True), enforced)

    def _led(
        self, request: GenerateRequest, prompt: ChatPrompt, render: Callable[[dict[str, Any]], str], *, enforced: bool
    ) -> tuple[str, Thought, int | None]:
        """The prompt, whether the answer begins within a thought, and the thought's budget."""
        asked = request.reasoning or NOTHING
        want = wanted(asked, self._tags, self.habits, prompt.template_kwargs)
        text = render(want.kwargs)
        if prompt.continued:
            if want.asked and not asked.optional:
                raise InvalidRequest(
                    "The last message is the beginning of the answer, before which no thinking can come any more. End "
                    "with a message of the user, or ask for no reasoning.", param="messages")
            return text, "closed", None
        more, thought = led(text, want, self._tags, self.habits, enforced=enforced)
        return text + more, thought, want.budget

    def _after(self, thought: Thought) -> str | None:
        """The tag that ends the thought which the prompt opened."""
        return self._tags.closing if self._tags is not None and thought == "opened" else None

    def _shown(
        self, prompt: ChatPrompt, tools: ToolUse, family: Family, habits: Habits, kwargs: dict[str, Any]
    ) -> str:
        messages = fitted(prompt.messages, habits, family)
        rendered = partial(self._rendered, habits=habits, continued=prompt.continued)
        functions = shown(tools)
        match habits.tools:
            case "tools":
                return rendered(messages, functions, kwargs)
            case "xml_tools":
                kwargs = {**kwargs, "xml_tools": [function["function"] for function in functions]}
            case "message":
                told = msgspec.json.encode([function["function"] for function in functions]).decode()
                if messages[0]["role"] != "system":
                    messages = [{"role": "system", "content": ""}, *messages]
                messages = [{**messages[0], "tools": told}, *messages[1:]]
            case None:
                messages = with_instructions(messages, instructions(functions, family), habits)
        return rendered(messages, None, kwargs)

    def _rendered(
        self, messages: Messages, tools: list[dict[str, Any]] | None, kwargs: dict[str, Any], *, habits: Habits,
        continued: bool,
    ) -> str:
        null_content = habits.calls is not None and habits.calls.null_content
        return self._template.render(messages, tools, kwargs, null_content=null_content, continued=continued)

    def _speech(self, inner: Callable[[], Parser], thought: Thought, *, continued: bool) -> Speech:
        opened = thought == "opened"
        if self._known is HARMONY:
            kind: Kind = "content" if continued else "reasoning" if opened else "head"
            return Speech(partial(Harmony, kind), self._control)
        if continued:
            return Speech(inner, self._control)
        if self._tags is None and inner is Plain:
            return PLAIN
        return Speech(partial(_thinking, self._tags, inner, opened), self._control)

    def _try(
        self, messages: Messages, tools: list[dict[str, Any]] | None, kwargs: dict[str, Any], *,
        null_content: bool = False,
    ) -> str | None:
        try:
            return self._template.render(messages, tools, kwargs, null_content=null_content)
        except Overdone:
            raise  # perhaps of a moment when the machine was busy: nothing is learned from it
        except InvalidRequest:
            return None


def _thinking(tags: Tags | None, inner: Callable[[], Parser], opened: bool) -> Parser:
    return inner() if tags is None else Thinking(tags, inner(), opened=opened)


def _with_budget(enforced: Enforced | None, after: str | None, budget: int | None) -> Enforced | None:
    if budget is None or after is None:
        return enforced
    return replace(enforced or Enforced(None, after), budget=budget)


def _of_tools(message: dict[str, Any]) -> bool:
    return message["role"] == "tool" or bool(message.get("tool_calls"))


def _control_tokens(vocab: Vocab, marks: list[str]) -> dict[int, str]:
    """Of which the marks are made, in whole or in part, and which are no text."""
    tokens = {token for mark in marks for token in vocab.tokenize(mark, special=True, bos=False)}
    written = {token: vocab.written(token).decode(errors="replace") for token in tokens if not vocab.piece(token)}
    return {token: text for token, text in written.items() if text}
