"""Anthropic's conversations as a chat template reads them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.api.anthropic.messages import Reader
from edged.api.anthropic.thinking import sealed, unsealed
from edged.errors import EdgedError, InvalidRequest

pytestmark = pytest.mark.unit

ASK: dict[str, Any] = {"role": "user", "content": "weather?"}
CALL: dict[str, Any] = {"type": "tool_use", "id": "c1", "name": "weather", "input": {"at": "Oslo"}}
CALLED: dict[str, Any] = {"role": "assistant", "content": [CALL]}


def read(*messages: Any) -> list[dict[str, Any]]:
    return Reader("refuse", []).messages(list(messages), "messages")


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def result(**more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "c1", **more}


def test_strings_and_blocks_of_text_are_the_same() -> None:
    assert read({"role": "user", "content": "a\nb"}) == read({"role": "user", "content": [text("a"), text("b")]}) == [
        {"role": "user", "content": "a\nb"}]


def test_a_loop_of_tools_becomes_calls_and_messages_of_role_tool() -> None:
    told = read(
        ASK,
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Look.", "signature": "whatever"}, text("I look."), CALL]},
        {"role": "user", "content": [result(content=[text("rain"), text("wind")]), text("And tomorrow?")]},
    )
    assert told == [
        ASK,
        {"role": "assistant", "reasoning_content": "Look.", "content": "I look.", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"at": "Oslo"}}}]},
        {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": "rain\nwind"},
        {"role": "user", "content": "And tomorrow?"},
    ]


@pytest.mark.parametrize(("block", "content"), [
    (result(content="rain"), "rain"), (result(), ""), (result(content=[]), ""),
    (result(content="no such town", is_error=True), "Error: no such town"), (result(is_error=True), "Error"),
    (result(content="ok", is_error=False, cache_control={"type": "ephemeral"}), "ok"),
])
def test_a_result_is_read_with_its_failure(block: dict[str, Any], content: str) -> None:
    assert read(ASK, CALLED, {"role": "user", "content": [block]})[-1]["content"] == content


def test_turns_of_one_role_in_a_row_are_one_turn() -> None:
    told = read(
        {"role": "user", "content": "a"}, {"role": "user", "content": [text("b")]},
        {"role": "assistant", "content": "c"}, {"role": "assistant", "content": [text("d"), CALL]},
        {"role": "user", "content": [result(content="1")]}, {"role": "user", "content": [result(content="2")]},
    )
    assert [(message["role"], message["content"]) for message in told] == [
        ("user", "a\nb"), ("assistant", "c\nd"), ("tool", "1"), ("tool", "2")]


def test_thinking_that_was_not_shown_is_read_from_its_signature() -> None:
    block = {"type": "thinking", "thinking": "", "signature": sealed("süß")}
    told = read(ASK, {"role": "assistant", "content": [block, text("a")]}, ASK)
    assert told[1] == {"role": "assistant", "content": "a", "reasoning_content": "süß"}


def test_thinking_that_another_server_hid_is_left_out() -> None:
    block = {"type": "thinking", "thinking": "", "signature": "EqQBCkYIBxgCKkD"}
    assert read(ASK, {"role": "assistant", "content": [block, text("a")]}, ASK)[1] == {
        "role": "assistant", "content": "a"}


def test_redacted_thinking_is_told_as_ignored() -> None:
    ignored: list[str] = []
    block = {"type": "redacted_thinking", "data": "x"}
    told = Reader("refuse", ignored).messages([ASK, {"role": "assistant", "content": [block, text("a")]}, ASK], "m")
    assert told[1] == {"role": "assistant", "content": "a"}
    assert ignored == ["m[1].content[0]"]


def test_an_answer_that_said_nothing_can_be_replayed() -> None:
    assert read(ASK, {"role": "assistant", "content": []}, ASK)[1] == {"role": "assistant", "content": ""}


def test_a_system_message_stays_in_its_place() -> None:
    assert [message["role"] for message in read(ASK, {"role": "system", "content": "be brief"}, ASK)] == [
        "user", "system", "user"]


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}


@pytest.mark.parametrize(("messages", "param", "words"), [
    ([{"role": "user", "content": [text("a"), IMAGE]}], "messages[0].content[1]", '"image"'),
    ([{"role": "user", "content": [{"type": "document", "source": {}}]}], "messages[0].content[0]", '"document"'),
    ([ASK, CALLED, {"role": "user", "content": [result(content=[IMAGE])]}], "messages[2].content[0].content[0]",
     '"image"'),
    ([{"role": "user", "content": [result()]}], "messages[0].content[0].tool_use_id", "no tool_use block"),
    ([{"role": "user", "content": [CALL]}], "messages[0].content[0].type", '"text" or "tool_result"'),
    ([{"role": "user", "content": []}], "messages[0].content", "blocks"),
    ([{"role": "user"}], "messages[0].content", "missing"),
    ([{"role": "tool", "content": "a"}], "messages[0].role", '"user"'),
    ([{"role": "user", "content": [{"text": "a"}]}], "messages[0].content[0].type", "missing"),
    ([{"role": "user", "content": [text("a") | {"colour": 1}]}], "messages[0].content[0].colour", "no field"),
    ([{"role": "user", "content": [text("a") | {"citations": [{}]}]}], "messages[0].content[0].citations", "text only"),
    ([ASK, {"role": "assistant", "content": [CALL | {"input": "{}"}]}, ASK], "messages[1].content[0].input", "object"),
    ([ASK, {"role": "assistant", "content": [{"type": "thinking", "thinking": "", "signature": "edged-thinking.%"}]},
      ASK], "messages[1].content[0].signature", "as it was sent"),
    ([], "messages", "at least one"), ("hi", "messages", "list"), ([7], "messages[0]", "object"),
    ([ASK, CALLED], "messages[1].content", "from text only"),
    ([ASK, {"role": "assistant", "content": [{"type": "thinking", "thinking": "a"}]}], "messages[1].content",
     "from text only"),
])
def test_what_cannot_be_read_is_refused_by_its_name(messages: Any, param: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Reader("refuse", []).messages(messages, "messages")
    assert caught.value.param == param
    assert words in caught.value.message


@given(st.text())
def test_what_a_signature_holds_comes_back(thought: str) -> None:
    assert unsealed(sealed(thought), "") == thought


texts = st.builds(text, st.text(max_size=3))
users = st.builds(lambda content: {"role": "user", "content": content}, st.text(max_size=3) | st.lists(
    texts | st.just(result(content="r")), min_size=1, max_size=4))
assistants = st.builds(lambda content: {"role": "assistant", "content": content}, st.text(max_size=3) | st.lists(
    texts | st.just(CALL) | st.builds(lambda thought: {"type": "thinking", "thinking": thought, "signature": "s"},
                                      st.text(max_size=3)), max_size=4))


@given(st.lists(users | assistants, max_size=8))
def test_of_any_conversation_every_word_and_call_is_told_and_turns_alternate(middle: list[dict[str, Any]]) -> None:
    told = read(ASK, CALLED, *middle, ASK)
    said = [block for message in [ASK, CALLED, *middle, ASK] for block in (
        [text(message["content"])] if isinstance(message["content"], str) else message["content"])]

    def letters(*parts: str) -> list[str]:
        return sorted("".join(parts).replace("\n", ""))

    assert letters(*(message["content"] for message in told)) == letters(*(
        block.get("text", "") or block.get("content", "") for block in said))
    assert letters(*(message.get("reasoning_content", "") for message in told)) == letters(*(
        block.get("thinking", "") for block in said))
    assert sum(len(message.get("tool_calls", [])) for message in told) == sum(
        block["type"] == "tool_use" for block in said)
    roles = [message["role"] for message in told]
    assert all(role == "tool" or role != after for role, after in itertools.pairwise(roles))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["user", "assistant", "text", "tool_use", "c1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["role", "content", "type", "text", "input", "id", "name", "tool_use_id", "thinking"]), inner,
        max_size=5), max_leaves=12)


@given(anything)
def test_nonsense_is_never_more_than_a_refusal(value: Any) -> None:
    refused = (400, True)
    try:
        Reader("refuse", []).messages(value, "messages")
    except EdgedError as error:
        refused = error.status, error.param is not None
    assert refused == (400, True)
