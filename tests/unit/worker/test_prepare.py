"""From a request to tokens, for models without a chat template: rendering has tests of its own."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest
from structlog.testing import capture_logs

from edged.engines.base import Capabilities, Fill
from edged.engines.fake import FakeGenerator, Knobs
from edged.errors import AdapterNotFound, ContextLengthExceeded, InvalidRequest, UnsupportedParameter
from edged.types import ChatPrompt, GenerateRequest, LoadSpec, Prompt, SamplingParams, TextPrompt, TokenPrompt
from edged.worker.prepare import Prepare

pytestmark = pytest.mark.unit

CONTEXT = 100


def prepare(
    *, sampling: SamplingParams | None = None, log_prompts: bool = False, all_logits: bool = True
) -> Prepare:
    engine = FakeGenerator(Knobs(context=CONTEXT))
    engine.vocab.chat_template = None
    caps: Capabilities = dataclasses.replace(engine.caps, all_logits=all_logits)
    spec = LoadSpec(name="fake", version="1", digest="0", engine="fake", path="", file="fake.json",
                    sampling=sampling or SamplingParams(), log_prompts=log_prompts)
    return Prepare(spec, caps, engine.vocab)


def request(prompt: Prompt, *, max_tokens: int | None = None, echo: bool = False, logprobs: int | None = None,
            sampling: SamplingParams | None = None) -> GenerateRequest:
    return GenerateRequest(id="r", prompt=prompt, max_tokens=max_tokens, echo=echo, logprobs=logprobs,
                           sampling=sampling or SamplingParams())


def test_a_text_becomes_tokens_after_the_beginning_token() -> None:
    assert prepare()(request(TextPrompt("hi"))).tokens == [256, *b"hi"]


def test_an_adapter_that_is_not_loaded_is_refused_by_name() -> None:
    with pytest.raises(AdapterNotFound) as caught:
        prepare()(GenerateRequest(id="r", prompt=TextPrompt("hi"), adapter="pirate"))
    assert (caught.value.status, caught.value.param) == (404, "adapter")


def test_tokens_are_taken_as_they_are() -> None:
    assert prepare()(request(TokenPrompt([300, 5]))).tokens == [300, 5]


def test_the_fields_of_the_request_go_before_the_models_and_those_before_the_general_ones() -> None:
    model = prepare(sampling=SamplingParams(temperature=0.3, top_k=7))
    sampling = model(request(TextPrompt("hi"), sampling=SamplingParams(temperature=0.0))).sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.0, 7, 1.0)


def test_an_answer_that_may_end_with_the_context_is_as_long_as_there_is_room() -> None:
    asked = GenerateRequest(id="r", prompt=TokenPrompt([5] * 90), max_tokens=32_000, to_context_end=True)
    assert prepare()(asked).max_length == CONTEXT
    assert prepare()(msgspec.structs.replace(asked, max_tokens=4)).max_length == 94
    with pytest.raises(ContextLengthExceeded) as refused:
        prepare()(msgspec.structs.replace(asked, prompt=TokenPrompt([5] * 100)))
    assert "needs 101 (100 in the prompt)" in refused.value.message


@pytest.mark.parametrize(("prompt", "answer"), [(100, 0), (99, 1), (99, None), (1, 99)])
def test_prompt_and_answer_may_fill_the_context(prompt: int, answer: int | None) -> None:
    prepared = prepare()(request(TokenPrompt([5] * prompt), max_tokens=answer))
    assert prepared.max_length == CONTEXT


@pytest.mark.parametrize(("prompt", "answer"), [(101, 0), (100, 1), (100, None), (1, 100), (1, 1 << 62)])
def test_more_is_refused_with_both_numbers(prompt: int, answer: int | None) -> None:
    with pytest.raises(ContextLengthExceeded) as refused:
        prepare()(request(TokenPrompt([5] * prompt), max_tokens=answer))
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "prompt")
    assert f"{CONTEXT} tokens" in refused.value.message
    assert str(prompt + (1 if answer is None else answer)) in refused.value.message


def test_a_request_may_bound_the_context_and_have_no_more_than_there_is() -> None:
    asked = GenerateRequest(id="r", prompt=TokenPrompt([5] * 10), context=20)
    assert prepare()(asked).max_length == 20
    assert prepare()(msgspec.structs.replace(asked, max_tokens=4)).max_length == 14
    with pytest.raises(ContextLengthExceeded, match=r"`num_ctx` is 20 tokens, .* needs 21"):
        prepare()(msgspec.structs.replace(asked, max_tokens=11))
    with pytest.raises(ContextLengthExceeded, match=rf"`num_ctx` is 101, .* {CONTEXT} tokens here") as refused:
        prepare()(msgspec.structs.replace(asked, context=CONTEXT + 1))
    assert refused.value.param == "num_ctx"


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        prepare()(request(TokenPrompt([])))


@pytest.mark.parametrize("token", [-1, 1 << 40])
def test_tokens_outside_the_vocabulary_are_refused(token: int) -> None:
    with pytest.raises(InvalidRequest, match=str(token)) as prompt:
        prepare()(request(TokenPrompt([5, token])))
    assert prompt.value.param == "prompt"
    with pytest.raises(InvalidRequest, match=str(token)) as bias:
        prepare()(request(TokenPrompt([5]), sampling=SamplingParams(logit_bias={token: 1.0})))
    assert bias.value.param == "logit_bias"


def test_prompt_logprobs_are_refused_where_the_graph_has_none() -> None:
    pruned = prepare(all_logits=False)
    with pytest.raises(UnsupportedParameter) as refused:
        pruned(request(TextPrompt("hi"), echo=True, logprobs=0))
    assert refused.value.param == "logprobs"
    pruned(request(TextPrompt("hi"), echo=True))
    pruned(request(TextPrompt("hi"), logprobs=0))


def test_messages_need_a_chat_template() -> None:
    model = prepare()
    assert not model.chat
    with pytest.raises(UnsupportedParameter) as refused:
        model(request(ChatPrompt(messages=[{"role": "user", "content": "hi"}])))
    assert refused.value.param == "messages"
    model.close()


@pytest.mark.parametrize("log_prompts", [True, False])
@pytest.mark.parametrize("prompt", [TextPrompt("my secret"), TokenPrompt(list(b"my secret"))])
def test_texts_are_logged_only_where_asked_for(log_prompts: bool, prompt: Prompt) -> None:
    with capture_logs() as entries:
        prepare(log_prompts=log_prompts)(request(prompt))
    assert entries == (
        [{"event": "prompt", "log_level": "info", "request_id": "r", "prompt": "my secret"}] if log_prompts else [])


def test_a_prompt_alone_is_told_whatever_its_length() -> None:
    long = "ab" * CONTEXT
    told = prepare().rendered(request(TextPrompt(long), max_tokens=50))
    assert (told.tokens, told.text) == ([256, *long.encode()], long)
    assert told.pieces[:3] == [b"<|bos|>", b"a", b"b"]
    assert prepare().rendered(request(TextPrompt("ab", bos=False))).tokens == [*b"ab"]


def test_tokens_alone_are_told_as_text_with_the_special_ones() -> None:
    told = prepare().rendered(request(TokenPrompt([258, 104, 0xE2, 259])))
    assert told.text == "<|im_start|>h\ufffd<|im_end|>"
    assert b"".join(told.pieces) == b"<|im_start|>h\xe2<|im_end|>"
    with pytest.raises(InvalidRequest, match="-1"):
        prepare().rendered(request(TokenPrompt([-1])))


def test_a_gap_is_asked_for_with_the_models_own_tokens() -> None:
    model = prepare()
    model._vocab.fill = Fill(prefix=300, suffix=301, middle=302)
    gap = TextPrompt("ab", suffix="yz")
    assert model(request(gap)).tokens == [256, 300, *b"ab", 301, *b"yz", 302]
    assert model(request(TextPrompt("", suffix="yz", bos=False))).tokens == [300, 301, *b"yz", 302]


def test_a_gap_is_refused_where_the_model_fills_none() -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        prepare()(request(TextPrompt("ab", suffix="yz")))
    assert refused.value.param == "suffix"
