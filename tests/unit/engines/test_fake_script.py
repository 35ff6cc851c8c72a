"""A test tells the fake model what to say, and it says that word for word."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.engines.base import RowWork
from edged.engines.fake import FakeGenerator, Knobs
from edged.worker.detokenize import Detokenizer
from edged.worker.renderer import Render, compile_template, render

pytestmark = pytest.mark.unit

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60).filter(lambda text: "<|" not in text)


def prompt(message: str, *, role: str = "user", thinking: bool | None = None) -> list[int]:
    vocab = FakeGenerator(Knobs()).vocab
    assert vocab.chat_template
    kwargs = {} if thinking is None else {"enable_thinking": thinking}
    before = [{"role": "user", "content": "say: something else"}] if role == "tool" else []
    shown = render(compile_template(vocab.chat_template), vocab.special,
                   Render([*before, {"role": role, "content": message}], None, kwargs, True))
    return vocab.tokenize(shown.text, special=True, bos=False)


def said(tokens: list[int], *, at_most: int = 400) -> str:
    engine = FakeGenerator(Knobs(context=2048, step_tokens=2048))
    text = Detokenizer(engine.vocab)
    shown = ""
    for _ in range(at_most):
        [logits] = engine.step([RowWork(0, tokens, 1)])
        tokens = [int(np.argmax(logits[-1]))]
        if tokens[0] in engine.vocab.end:
            return shown
        shown += text.push(tokens[0])
    return shown


@given(texts)
def test_it_says_what_the_last_message_told_and_ends(text: str) -> None:
    assert said(prompt(f"Please say: {text}")) == text.rpartition("say: ")[2]


@pytest.mark.parametrize("role", ["user", "tool", "system"])
def test_any_role_can_tell_it(role: str) -> None:
    assert said(prompt("say: <tool_call>{}</tool_call>", role=role)) == "<tool_call>{}</tool_call>"


def test_a_model_told_not_to_think_says_it_all_the_same() -> None:
    assert said(prompt("say: four of the words", thinking=False)) == "four of the words"


def test_a_model_told_to_think_goes_on_within_its_thought() -> None:
    assert said(prompt("say: <think>So.</think>Yes", thinking=True)) == "So.</think>Yes"
    assert said(prompt("say: Yes", thinking=True)) == "</think>Yes"
    assert said([*prompt("say: <think>So it is.</think>Yes", thinking=True), *b"So</think>"]) == "Yes"


def test_without_a_script_and_off_the_script_it_speaks_by_chance() -> None:
    assert said(prompt("tell me"), at_most=5)
    assert said([*prompt("say: yes"), *b"no"], at_most=5) not in ("", "yes")
    assert said([*prompt("say: yes"), *b"ye"]) == "s"
