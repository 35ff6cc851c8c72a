"""A tokenizer of a student's own: byte-level BPE over the training texts, in the form that llama.cpp knows as `smollm`
(digits one by one, then GPT-2's words), so that every engine cuts a text alike.

Three things differ from what a large model's tokenizer does, since a small student mostly has to copy:
- no merge joins a blank with the word behind it. `kitchen` is then the same token after a blank, in a prompt, and
  after a quote, in JSON, and copying is repeating it; otherwise they are two tokens, and the pair must be learned by
  heart for each word.
- a pair must be frequent before it is merged, so that every token is seen often enough to be learned.
- merges are learned from words that are in many texts alone; all others are spelled in their pieces. A word that the
  data never had comes in pieces too, and a student that has seen its words whole never learned to copy it.

So it suits commands and forms, whose words are few or names. Prose would be spelled from end to end: there the
teacher's tokenizer is better.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from training.examples import Example

END_OF_TEXT, BEGIN, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CALL, CALL_END = "<tool_call>", "</tool_call>"
#: Words in a smaller share of the texts are spelled.
_SELDOM = 0.02
_WORD = re.compile(r"[^\W\d_]+")
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
    # Blanks before words apart, for the learning of merges only: what was never merged stays apart under any rule.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        digits, pre_tokenizers.Split(Regex(r"\s(?=[\p{L}\p{N}])"), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    spelled = _spelled(texts)
    # A digit in its place is never merged with what stands around it.
    learned = (_WORD.sub(lambda word: "0" if word[0] in spelled else word[0], text) for text in texts)
    tokenizer.train_from_iterator(learned, trainers.BpeTrainer(
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


def _spelled(texts: Sequence[str]) -> set[str]:
    """Words that merges are learned without."""
    found = Counter(word for text in texts for word in set(_WORD.findall(text)))
    return {word for word, count in found.items() if count < _SELDOM * len(texts)}


def _texts(example: Example) -> Iterator[str]:
    """What its tokens will be made of."""
    messages = [*example.prompt, *(() if example.answer is None else (example.answer,))]
    for message in messages:
        yield f"{message.role}\n{message.content}"
        for call in message.tool_calls:
            yield f"{CALL}\n{json.dumps(call.get('function', call), ensure_ascii=False)}\n{CALL_END}"
    for tool in example.tools:
        yield f"<tools>\n{json.dumps(tool, ensure_ascii=False)}\n</tools>"
