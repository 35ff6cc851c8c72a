"""Real chat templates render as transformers renders them."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import product
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from edged.worker.begun import marked, until_mark
from edged.worker.renderer import Render, attempt, compile_template, render

pytestmark = pytest.mark.real

#: Families of the catalog; trl has variants of each.
WANTED = {
    "llama3", "llama3_1", "llama3_2", "qwen2_5", "qwen3", "gemma3", "phi3_5", "deepseek_r1_distill", "gptoss", "lfm2",
    "mistral", "chatml",
}

TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "weather", "description": "It's <now> & \"here\" ü",
            "parameters": {
                "type": "object", "required": ["city"],
                "properties": {
                    "city": {"type": "string", "description": "Ort"}, "days": {"type": "integer", "enum": [1, 2]},
                },
            },
        },
    }
]
SYSTEM = {"role": "system", "content": 'Be brief. <b>&"\''}
USER = {"role": "user", "content": "  Grüß dich 🦆\n"}
ASSISTANT = {"role": "assistant", "content": "Hello"}
REASONED = {"role": "assistant", "content": "3", "reasoning_content": "1 + 2"}
RESULT = {"role": "tool", "tool_call_id": "call12345", "name": "weather", "content": '{"temp": 3}'}


def calling(arguments: Any) -> dict[str, Any]:
    function = {"name": "weather", "arguments": arguments}
    return {
        "role": "assistant", "content": None,
        "tool_calls": [{"id": "call12345", "type": "function", "function": function}],
    }


CONVERSATIONS: list[list[dict[str, Any]]] = [
    [USER],
    [SYSTEM, USER],
    [SYSTEM, USER, ASSISTANT, USER],
    [USER, calling({"city": "Köln", "days": 2}), RESULT],
    [SYSTEM, USER, calling({"city": "Köln"}), RESULT, ASSISTANT, USER],
    [USER, calling('{"city": "Köln"}'), RESULT],
    [USER, REASONED, USER],
    # Some templates refuse these two.
    [USER, USER],
    [ASSISTANT, SYSTEM],
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({"<s>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def test_the_templates_of_the_families_are_there(templates: dict[str, str]) -> None:
    assert templates.keys() >= WANTED


def test_every_template_renders_as_in_transformers(
    templates: dict[str, str], tokenizer: PreTrainedTokenizerFast
) -> None:
    kinds: Counter[str] = Counter()
    for name, source in templates.items():
        compiled = compile_template(source)
        for messages, tools, prompted, kwargs in product(
            CONVERSATIONS, (None, TOOLS), (True, False), ({}, {"enable_thinking": False})
        ):
            try:
                text = tokenizer.apply_chat_template(
                    messages, tools=tools, chat_template=source, add_generation_prompt=prompted, tokenize=False,
                    **kwargs,
                )
                kinds["text"] += 1
            except Exception as error:
                text = str(error).rstrip(".")
                kinds["error"] += 1
            request = Render(messages, tools, kwargs, prompted)
            ours = attempt(partial(render, compiled, tokenizer.special_tokens_map, request), 60)
            assert (name, messages, ours.text.rstrip(".") if ours.problem else ours.text) == (name, messages, text)
    # Both ways are really taken.
    assert kinds["text"] > 1000
    assert kinds["error"] > 100


def test_every_template_goes_on_with_the_beginning_of_an_answer_as_in_transformers(
    templates: dict[str, str], tokenizer: PreTrainedTokenizerFast
) -> None:
    begun = {"role": "assistant", "content": "The answer is"}
    compared = 0
    for (name, source), before in product(templates.items(), ([USER], [SYSTEM, USER], [USER, ASSISTANT, USER])):
        messages, mark = marked([*before, begun])
        ours = attempt(partial(render, compile_template(source), tokenizer.special_tokens_map,
                               Render(messages, None, {}, False)), 60)
        try:
            text = tokenizer.apply_chat_template(
                [*before, begun], chat_template=source, continue_final_message=True, tokenize=False)
        except Exception:
            # It refuses these messages, or does not show the last one's text.
            assert ours.problem or mark not in ours.text, name
        else:
            assert (name, until_mark(ours.text, mark)) == (name, text)
            compared += 1
    assert compared > 50
