"""A tokenizer of single characters, with what training asks of transformers' ones; no library, no file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import jinja2

CHATML = (
    "{% for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<call>{{ call.function.name }}({{ call.function.arguments.room }})"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@cache
def _compiled(template: str) -> jinja2.Template:
    return jinja2.Environment().from_string(template)


class Characters:
    """A token is a character or a special token; merged: pairs that are one token, as BPE makes them."""

    eos_token_id = 1

    def __init__(self, template: str | None = CHATML, merged: Sequence[str] = (), special: bool = True) -> None:
        self.chat_template = template
        self._texts = ["<|im_start|>", "<|im_end|>"] if special else ["<unused>", "</s>"]
        self.all_special_ids = [0, 1]
        self.added_tokens_decoder: dict[int, Any] = {}
        self._pattern = re.compile("|".join(map(re.escape, [*self._texts, *merged])) + "|.", re.DOTALL)

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [self._id(piece) for piece in self._pattern.findall(text)]}

    def decode(self, ids: list[int]) -> str:
        return "".join(self._texts[each] for each in ids)

    def apply_chat_template(self, messages: Any, tools: Any, add_generation_prompt: bool, tokenize: bool) -> str:
        assert not tokenize
        return _compiled(self.chat_template or "").render(
            messages=messages, tools=tools, add_generation_prompt=add_generation_prompt)

    def _id(self, piece: str) -> int:
        if piece not in self._texts:
            self._texts.append(piece)
        return self._texts.index(piece)
