"""What is learned of an example, token by token, with a tokenizer of characters and small chat templates."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import InvalidRequest
from tests.unit.training.characters import CHATML, Characters
from training import tool_chats
from training.encode import NO_LOSS, encoded, prompt_ids, token_counts
from training.examples import Example, Message, identity

pytestmark = pytest.mark.unit

PLAIN = "{% for message in messages %}{{ message.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"


def example(*prompt: Message, answer: Message | None = None, **more: Any) -> Example:
    return Example(id=identity(prompt), prompt=prompt, answer=answer, **more)


def learned(tokenizer: Characters, labels: list[int]) -> str:
    return tokenizer.decode([label for label in labels if label != NO_LOSS])


HELLO = example(Message("user", "Hello"), answer=Message("assistant", "Hi!"))


def test_the_answer_is_learned_to_its_end_of_turn_and_nothing_else() -> None:
    tokenizer = Characters()
    found = encoded(tokenizer, HELLO, completion_only=True)
    assert tokenizer.decode(found.input_ids) == (
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi!<|im_end|>")
    assert learned(tokenizer, found.labels) == "Hi!<|im_end|>"
    assert len(found.labels) == len(found.input_ids)


def test_without_completion_only_all_of_it_is_learned() -> None:
    found = encoded(Characters(), HELLO, completion_only=False)
    assert found.labels == found.input_ids


def test_the_prompt_is_what_a_served_model_gets_and_the_beginning_of_what_is_learned() -> None:
    tokenizer = Characters()
    prompt = prompt_ids(tokenizer, HELLO)
    assert tokenizer.decode(prompt).endswith("<|im_start|>assistant\n")
    assert encoded(tokenizer, HELLO, completion_only=True).input_ids[:len(prompt)] == prompt


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_prompt_and_answer(prompt: str, answer: str) -> None:
    tokenizer = Characters(merged=("\n\n", "ab", " a"))
    said = example(Message("user", prompt), answer=Message("assistant", answer))
    found = encoded(tokenizer, said, completion_only=True)
    begin = prompt_ids(tokenizer, said)
    assert found.input_ids[:len(begin)] == begin
    assert found.labels == [NO_LOSS] * len(begin) + found.input_ids[len(begin):]
    assert learned(tokenizer, found.labels) == answer + "<|im_end|>"


def test_a_merge_across_the_border_leaves_the_prompt_as_it_is() -> None:
    tokenizer = Characters(merged=("\n\n",))
    said = example(Message("user", "x"), answer=Message("assistant", "\nyes"))
    found = encoded(tokenizer, said, completion_only=True)
    assert learned(tokenizer, found.labels) == "\nyes<|im_end|>"


def test_a_template_without_an_end_of_turn_gets_the_tokenizers() -> None:
    tokenizer = Characters(
        "{% for message in messages %}{% if message.role == 'assistant' %}>{% endif %}{{ message.content }}{% endfor %}"
        "{% if add_generation_prompt %}>{% endif %}", special=False)
    assert learned(tokenizer, encoded(tokenizer, HELLO, completion_only=True).labels) == "Hi!</s>"


def test_a_template_whose_prompt_is_no_beginning_is_refused_with_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool_chats, "begins_thought", lambda tokenizer, prompt: False)
    with pytest.raises(InvalidRequest, match=r"not the beginning.*'>'"):
        encoded(Characters(PLAIN), HELLO, completion_only=True)


def test_a_base_without_a_template_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no chat template"):
        prompt_ids(Characters(None), HELLO)


def test_what_the_template_says_against_the_messages_is_told() -> None:
    with pytest.raises(InvalidRequest, match="refuses the messages"):
        prompt_ids(Characters("{{ messages[5].content.none }}"), HELLO)


@pytest.mark.parametrize("template", [
    CHATML.replace("{{ message.content }}", "{{ message.content if message.role == 'user' }}"),
    CHATML.replace("{{ message.content }}", "{{ message.content if message.role != 'user' }}"),
    CHATML.replace("{{ message.content }}", "{{ message.content | upper }}"),
])
def test_words_that_the_template_drops_or_changes_are_refused(template: str) -> None:
    with pytest.raises(InvalidRequest, match="does not write what the"):
        encoded(Characters(template), HELLO, completion_only=True)


TURNS = (Message("system", " Be brief.\n"), Message("user", "Hello"), Message("assistant", "<think>Hm.</think>\n\nHi!"),
         Message("user", "Bye"))


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_every_turn_of_a_prompt_has_to_be_written(role: str) -> None:
    shown = "{% if loop.last or message.role != '" + role + "' %}{{ message.content }}{% endif %}"
    with pytest.raises(InvalidRequest, match=f"does not write what the {role} says"):
        prompt_ids(Characters(CHATML.replace("{{ message.content }}", shown)), example(*TURNS))


def test_a_template_may_leave_out_earlier_thoughts_and_white_space() -> None:
    template = CHATML.replace("{{ message.content }}", "{{ message.content.split('</think>')[-1].strip() }}")
    tokenizer = Characters(template)
    prompt = tokenizer.decode(prompt_ids(tokenizer, example(*TURNS)))
    assert "system\nBe brief.<|im_end|>" in prompt
    assert "Hm." not in prompt


def test_an_example_without_an_answer_is_no_training_example() -> None:
    with pytest.raises(InvalidRequest, match="no answer to learn"):
        encoded(Characters(), example(Message("user", "x")), completion_only=True)


def test_lengths_are_of_the_prompt_and_the_longer_answer() -> None:
    said = example(Message("user", "x"), answer=Message("assistant", "ab"), rejected=Message("assistant", "abcd"))
    prompt, answer = token_counts(Characters(), said)
    assert prompt == len(prompt_ids(Characters(), said))
    assert answer == len("abcd") + 1
