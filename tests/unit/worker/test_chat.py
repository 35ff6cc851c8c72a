"""Marks of which only a part is a control token are read and enforced all the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edged.types import CallPiece, ChatPrompt, GenerateRequest, Reasoning, ToolFunction, ToolUse
from edged.worker.chat import Chat
from edged.worker.constraint import Constraints
from edged.worker.telling import Telling
from edged.worker.template import Overdone
from tests.unit.worker.test_enforce import MarkVocab, takes
from tests.unit.worker.test_formats import BY_NAME, told

pytestmark = pytest.mark.unit

#: Gemma 4's marks, in a template of the fewest words.
TEMPLATE = (
    "{% if enable_thinking is defined and enable_thinking %}<|think|>{% endif %}"
    "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}"
    "{% for message in messages %}<|turn>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<|tool_call>call:{{ call.function.name }}{{ '{' }}"
    "{% for key, value in call.function.arguments.items() %}{{ key }}:<|\"|>{{ value }}<|\"|>{% endfor %}}<tool_call|>"
    "{% endfor %}<turn|>\n{% endfor %}<|turn>model\n{# <|channel>thought\n<channel|> #}"
)
TOOLS = ToolUse(functions=[ToolFunction(
    name="weather", parameters='{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}')])


class Vocab(MarkVocab):
    def __init__(self) -> None:
        super().__init__(BY_NAME["gemma4"], control=True)
        self.marks = (*self.marks, "<|channel>", "<channel|>")
        self._pieces = [*self._pieces, b"", b""]
        self.size = len(self._pieces)


@pytest.fixture(scope="module")
def chat() -> Iterator[Chat]:
    made = Chat(TEMPLATE, Vocab())
    yield made
    made.close()


def request(**more: object) -> GenerateRequest:
    return GenerateRequest(id="r", prompt=ChatPrompt(messages=[{"role": "user", "content": "Hi"}]), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_thought_and_a_call_are_read_and_held(chat: Chat, choice: str) -> None:
    vocab = Vocab()
    tools = ToolUse(functions=TOOLS.functions, choice=choice)  # type: ignore[arg-type]
    turn = chat(request(tools=tools, reasoning=Reasoning(effort="high")))
    assert chat.native is BY_NAME["gemma4"]
    assert turn.text.endswith("<|turn>model\n<|channel>thought\n")
    assert turn.enforced is not None
    held = Constraints(vocab).compile(turn.enforced.rule, after=turn.enforced.after, optional=turn.enforced.optional)
    said = 'Hm.<channel|><|tool_call>call:weather{city:<|"|>Bonn<|"|>}<tool_call|>'
    assert takes(held, vocab, said)
    assert not takes(held, vocab, said.replace("city", "town"))
    assert takes(held, vocab, "Hm.<channel|>Hello") == (choice == "auto")
    telling = Telling(vocab, turn.speech, (), first=True)
    calls: list[CallPiece] = []
    reasoning = ""
    for token in vocab.tokenize(said, special=True, bos=False):
        parts, _ = telling.push(token)
        reasoning += parts.reasoning
        calls += parts.calls
    rest, _ = telling.finish()
    rest.calls = [*calls, *rest.calls]
    assert (reasoning, told(rest)) == ("Hm.", ("", "", [("weather", '{"city": "Bonn"}')]))


def test_a_thought_that_the_model_opens_itself_is_allowed(chat: Chat) -> None:
    vocab = Vocab()
    turn = chat(request(tools=TOOLS))
    assert turn.text.endswith("<|turn>model\n")
    assert turn.enforced is not None
    held = Constraints(vocab).compile(turn.enforced.rule, after=turn.enforced.after, optional=turn.enforced.optional)
    assert takes(held, vocab, "<|channel>thought\nHm.<channel|>Hello")
    assert takes(held, vocab, "Hello")


def test_a_rendering_that_was_overdone_teaches_nothing_of_the_template(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = Chat(TEMPLATE, Vocab())
    try:
        with monkeypatch.context() as busy:
            busy.setattr(fresh._template, "render", overdone)
            with pytest.raises(Overdone):
                fresh(request(tools=TOOLS))
        assert fresh(request(tools=TOOLS)).text == chat(request(tools=TOOLS)).text
    finally:
        fresh.close()


def overdone(*_: object, **__: object) -> str:
    raise Overdone("busy")
