"""Prompts that end within the answer."""

from __future__ import annotations

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import InvalidRequest
from edged.worker.begun import marked, until_mark

pytestmark = pytest.mark.unit

CHATML = jinja2.Template(
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}")


@given(st.text())
def test_a_prompt_ends_with_the_beginning_as_it_was_said_after_a_template_that_trims(said: str) -> None:
    messages, mark = marked([{"role": "user", "content": "hi"}, {"role": "assistant", "content": said}])
    prompt = until_mark(CHATML.render(messages=messages), mark)
    assert prompt == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n" + said.lstrip()


def test_the_messages_of_the_request_stay_as_they_are() -> None:
    messages = [{"role": "assistant", "content": "a"}]
    assert marked(messages)[0] != messages == [{"role": "assistant", "content": "a"}]


@pytest.mark.parametrize("template", [
    "{{ messages[0].content }}", "{{ messages[1].content }}{{ messages[1].content }}"])
def test_a_template_that_does_not_show_the_last_message_once_is_refused(template: str) -> None:
    messages, mark = marked([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a"}])
    with pytest.raises(InvalidRequest) as caught:
        until_mark(jinja2.Template(template).render(messages=messages), mark)
    assert caught.value.param == "messages"
