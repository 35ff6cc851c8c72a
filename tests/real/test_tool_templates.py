"""Tools, calls, results and thoughts in the prompts of real chat templates: nothing that a client sent is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edged.errors import InvalidRequest, UnsupportedParameter
from edged.types import ChatPrompt, GenerateRequest, Reasoning, ToolFunction, ToolUse
from edged.worker.chat import Chat, Turn
from tests.unit.worker.vocabs import ByteVocab

pytestmark = pytest.mark.real

#: What the templates of the families do with tools. Those of None are taught Hermes' format.
NATIVE = {
    "qwen2_5": "hermes", "qwen3": "hermes", "llama3_1": "llama3", "llama3_2": "llama3", "gptoss": "harmony",
    "deepseek_r1_distill": "deepseek", "deepseekv3": "deepseek", "gemma4": "gemma4", "phi4_mini": "phi4",
    "smollm3": "smollm3", "mistral_nemo": "mistral_list",
    "chatml": None, "gemma": None, "gemma3": None, "phi3": None, "phi3_5": None, "llama3": None, "lfm2": None,
    "mistral": None, "qwen3_5_think": None,
}
#: Families whose templates are in no package, as far as tools go. Phi-4-mini's is the model's own; the others keep
#: what is particular of theirs: tools under another name, and ids of nine characters.
OTHERS = {
    "phi4_mini": (
        "{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is "
        "not none %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + "
        "'<|/tool|>' + '<|end|>' }}{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
    ),
    "smollm3": (
        "{% if xml_tools or python_tools %}<|im_start|>system\n{% for tool in xml_tools %}{{ tool | string }}\n"
        "{% endfor %}<tool_call></tool_call><|im_end|>\n{% endif %}"
        "{% for message in messages %}{% if message.role == 'tool' %}<|im_start|>user\n{{ message.content }}"
        "{% else %}<|im_start|>{{ message.role }}\n{{ message.content }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n{% endif %}{% endif %}"
    ),
    "mistral_nemo": (
        "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
        "{% for message in messages %}{% if message.tool_calls %}[TOOL_CALLS][{% for call in message.tool_calls %}"
        "{% if call.id | length != 9 %}{{ raise_exception('Tool call IDs should have length 9!') }}{% endif %}"
        "{{ (call.function | tojson)[:-1] }}, \"id\": \"{{ call.id }}\"}{{ ', ' if not loop.last }}{% endfor %}]</s>"
        "{% elif message.role == 'tool' %}{% if message.tool_call_id | length != 9 %}"
        "{{ raise_exception('Tool call IDs should have length 9!') }}{% endif %}"
        "[TOOL_RESULTS]{\"content\": {{ message.content }}, \"call_id\": \"{{ message.tool_call_id }}\"}[/TOOL_RESULTS]"
        "{% elif message.role == 'user' %}[INST]{{ message.content }}[/INST]{% else %}{{ message.content }}</s>"
        "{% endif %}{% endfor %}"
    ),
}
TOOLS = ToolUse(functions=[ToolFunction(
    name="weather", description="tells-the-weather",
    parameters='{"type":"object","properties":{"city":{"type":"string","description":"a-city"}},"required":["city"]}',
)])


def calling(*cities: str) -> list[dict[str, Any]]:
    calls = [{"id": f"call_{city}", "type": "function", "function": {"name": "weather", "arguments": {"city": city}}}
             for city in cities]
    return [
        {"role": "assistant", "content": "", "tool_calls": calls},
        *({"role": "tool", "tool_call_id": f"call_{city}", "content": f"result-of-{city}"} for city in cities),
    ]


class Vocab(ByteVocab):
    special = {"bos_token": "<s>", "eos_token": "</s>"}  # noqa: RUF012 (the protocol declares it so)


@pytest.fixture(scope="module")
def chat(templates: dict[str, str]) -> Iterator[Callable[[str], Chat]]:
    made: dict[str, Chat] = {}

    def of(name: str) -> Chat:
        if name not in made:
            made[name] = Chat((OTHERS | templates)[name], Vocab())
        return made[name]

    yield of
    for one in made.values():
        one.close()


def turn(chat: Chat, messages: list[dict[str, Any]], **more: Any) -> Turn:
    kwargs = more.pop("kwargs", {})
    return chat(GenerateRequest(id="r", prompt=ChatPrompt(messages=messages, template_kwargs=kwargs), **more))


@pytest.mark.parametrize("name", NATIVE)
def test_tools_calls_and_results_are_in_the_prompt_in_the_models_own_format(
    name: str, chat: Callable[[str], Chat]
) -> None:
    one = chat(name)
    assert (one.native.name if one.native else None) == NATIVE[name]
    user = {"role": "user", "content": "the-question"}
    for conversation in (
        [user, *calling("Bonn")], [user, *calling("Bonn", "Rome")],
        [user, *calling("Bonn"), *calling("Rome"), {"role": "assistant", "content": "the-answer"}, user],
    ):
        text = turn(one, conversation, tools=TOOLS).text
        cities = {call["function"]["arguments"]["city"] for message in conversation
                  for call in message.get("tool_calls", [])}
        at = text.index("the-question") if name not in ("llama3_1", "llama3_2") else 0
        for city in sorted(cities):
            call = text.index(city, at)
            assert text.index(f"result-of-{city}") > call, text
        assert "tells-the-weather" in text
        assert "a-city" in text
        assert '\\"city\\"' not in text
        assert "'city'" not in text[at:]
        # A past loop is shown also when no tools come with the request any more.
        assert all(f"result-of-{city}" in turn(one, conversation).text for city in cities)


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("arguments", ['{"city": ', "not JSON", "", '"text"'])
def test_arguments_that_are_no_json_are_shown_or_refused_with_the_field(
    name: str, arguments: str, chat: Callable[[str], Chat]
) -> None:
    conversation = [{"role": "user", "content": "Hello"}, *calling("Bonn")]
    conversation[1]["tool_calls"][0]["function"]["arguments"] = arguments
    try:
        text, refused = turn(chat(name), conversation, tools=TOOLS).text, None
    except InvalidRequest as error:
        text, refused = "", error.param
    assert refused in (None, "messages")
    if refused is None:
        assert "result-of-Bonn" in text
        assert arguments.strip('"{: ') in text


@pytest.mark.parametrize(("name", "effort", "end"), [
    ("qwen3", "none", "<think>\n\n</think>\n\n"), ("qwen3", "high", "<|im_start|>assistant\n"),
    ("qwen3", "low", "<think>\n"), ("qwen3", None, "<|im_start|>assistant\n"),
    ("deepseek_r1_distill", None, "<think>\n"), ("deepseek_r1_distill", "none", "<think>\n\n</think>\n\n"),
    ("gptoss", "high", "<|start|>assistant"), ("smollm3", "none", "<think>\n\n</think>\n"),
    ("gptoss", "none", "<|start|>assistant<|channel|>analysis<|message|><|end|><|start|>assistant"),
])
def test_effort_is_in_the_prompt(name: str, effort: Any, end: str, chat: Callable[[str], Chat]) -> None:
    text = turn(chat(name), [{"role": "user", "content": "Hello"}], reasoning=Reasoning(effort=effort)).text
    assert text.endswith(end)
    if name == "gptoss" and effort == "high":
        assert "Reasoning: high" in text


def test_what_is_enforced_after_a_thought_makes_the_prompt_open_one(chat: Callable[[str], Chat]) -> None:
    hello = [{"role": "user", "content": "Hello"}]
    for name, end in (("qwen3", "assistant\n<think>\n"), ("gptoss", "<|channel|>analysis<|message|>")):
        made = turn(chat(name), hello, tools=TOOLS)
        assert made.text.endswith(end)
        assert made.enforced is not None
        assert made.enforced.after in ("</think>", "<|end|>")
    bound = turn(chat("qwen3"), hello, reasoning=Reasoning(budget=50))
    assert bound.enforced is not None
    assert (bound.enforced.rule, bound.enforced.after, bound.enforced.budget) == (None, "</think>", 50)


@pytest.mark.parametrize("name", ["phi3_5", "llama3_2", "qwen2_5", "gemma3"])
def test_a_model_that_does_not_think_refuses_to_be_asked_to(name: str, chat: Callable[[str], Chat]) -> None:
    hello = [{"role": "user", "content": "Hello"}]
    with pytest.raises(UnsupportedParameter) as caught:
        turn(chat(name), hello, reasoning=Reasoning(effort="low"))
    assert caught.value.param == "reasoning_effort"
    assert turn(chat(name), hello, reasoning=Reasoning(effort="none")).text == turn(chat(name), hello).text
