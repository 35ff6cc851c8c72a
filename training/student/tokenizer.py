"""A tokenizer of a student's own: byte-level BPE over the training texts, in the form that llama.cpp knows as `smollm`
(digits one by one, then GPT-2's words), so that every engine cuts a text alike.

Two things differ from what a large model's tokenizer does, since a small student mostly has to copy:
- no merge joins a blank with the word behind it. `kitchen` is then the same token after a blank, in a prompt, and
  after a quote, in JSON, and copying is repeating it; otherwise they are two tokens, and the pair must be learned by
  heart for each word. A word that the data never had falls into the same pieces in both places.
- a pair must be frequent before it is merged, so that every token is seen often enough to be learned, and rare words
  are spelled in pieces during the training already.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from training.examples import Example

END_OF_TEXT, BEGIN, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CALL, CALL_END = "<tool_call>", "</tool_call>"
#: A pair is merged that comes up once in so many texts, and twice at least.
_TEXTS_A_MERGE = 1000

#: ChatML; tools one a line in the system's message, calls as Hermes writes them, which is a family that edged reads. No
#: system prompt of its own: a student pays for each token.
TEMPLATE = r"""
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\n' }}{%- endif %}
    {{- '<tools>\n' }}
    {%- for tool in tools %}{{- tool | tojson + '\n' }}{%- endfor %}
    {{- '</tools><|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if not (tools and loop.first and message.role == 'system') %}
        {{- '<|im_start|>' + message.role + '\n' + (message.content or '') }}
        {%- for call in message.tool_calls or [] %}
            {%- set asked = call.function or call %}
            {{- '<tool_call>\n{"name": "' + asked.name + '", "arguments": ' }}
            {{- asked.arguments if asked.arguments is string else asked.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
""".strip()


def train_tokenizer(examples: Iterable[Example], vocabulary: int) -> Any:
    """vocabulary: tokens at most, special ones and the 256 bytes among them; fewer where the texts have no more that is
    frequent. Returns transformers' PreTrainedTokenizerFast with the chat template."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    texts = [text for example in examples for text in _texts(example)]
    calls = any(CALL in text for text in texts)
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    # Blanks apart, for the learning of merges only: what was never merged stays apart under any rule.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        digits, pre_tokenizers.Split(Regex(r"\s+"), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocabulary - 2 * calls, min_frequency=max(2, len(texts) // _TEXTS_A_MERGE), show_progress=False,
        special_tokens=[END_OF_TEXT, BEGIN, END], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    if calls:
        tokenizer.add_tokens([AddedToken(CALL, normalized=False), AddedToken(CALL_END, normalized=False)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END, pad_token=END_OF_TEXT, unk_token=END_OF_TEXT)
    made.chat_template = TEMPLATE
    return made


def _texts(example: Example) -> Iterator[str]:
    """What its tokens will be made of."""
    messages = [*example.prompt, *(() if example.answer is None else (example.answer,))]
    for message in messages:
        yield f"{message.role}\n{message.content}"
        for call in message.tool_calls:
            yield f"{CALL}\n{json.dumps(call.get('function', call), ensure_ascii=False)}\n{CALL_END}"
    for tool in example.tools:
        yield f"<tools>\n{json.dumps(tool, ensure_ascii=False)}\n</tools>"
