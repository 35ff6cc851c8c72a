"""A Hugging Face folder that answers here, against what the model says without any of it."""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from edged.errors import CorruptFile, InvalidRequest, RefusedFile
from training.examples import Example, Message, identity
from training.local_model import LocalModel

pytestmark = pytest.mark.real


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tiny_hf: Path) -> LocalModel:
    return LocalModel(tiny_hf)


def example(text: str, answer: str | None = None) -> Example:
    prompt = (Message("user", text),)
    return Example(id=identity(prompt), prompt=prompt,
                   answer=None if answer is None else Message("assistant", answer))


EXAMPLES = [example(text, answer) for text, answer in (
    ("You may", "reproduce and distribute copies"), ("a", "b"),
    ("Licensed under the terms of this License, with or without modifications, and in Source or Object form", "no"),
    ("Derivative Works", "shall not include works that remain separable from the Work"), ("warranties", "of title"))]


def test_what_is_said_greedily_does_not_depend_on_the_batch(model: LocalModel) -> None:
    together = model.answers(EXAMPLES, max_tokens=12, batch_size=5)
    for one, (reply,) in zip(EXAMPLES, together, strict=True):
        [[alone]] = model.answers([one], max_tokens=12)
        assert alone.message == reply.message
        assert alone.completion_tokens == reply.completion_tokens == 12
        assert reply.finish_reason == "length"
    assert len({reply.message.content for (reply,) in together}) > 1


def test_greedy_is_what_transformers_says(model: LocalModel, tiny_hf: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_hf)
    plain: Any = AutoModelForCausalLM.from_pretrained(tiny_hf, dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "You may"}], add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = plain.generate(**prompt, max_new_tokens=12, do_sample=False)
    said = tokenizer.decode(out[0, prompt["input_ids"].shape[1]:], skip_special_tokens=True)
    [[reply]] = model.answers(EXAMPLES[:1], max_tokens=12)
    assert reply.message.content == said
    assert reply.prompt_tokens == prompt["input_ids"].shape[1]


def test_samples_depend_on_seed_and_place_and_not_on_the_batch(model: LocalModel) -> None:
    def sampled(examples: list[Example], *, seed: int = 3, batch_size: int = 16) -> list[list[str]]:
        found = model.answers(examples, max_tokens=8, temperature=1.0, top_p=0.9, seed=seed, samples=2,
                              batch_size=batch_size)
        return [[reply.message.content for reply in replies] for replies in found]

    together = sampled(EXAMPLES)
    assert together == [sampled([one], batch_size=1)[0] for one in EXAMPLES]
    assert all(first != second for first, second in together)
    assert together != sampled(EXAMPLES, seed=4)


def test_a_low_temperature_says_the_likeliest(model: LocalModel) -> None:
    cold = model.answers(EXAMPLES, max_tokens=8, temperature=1e-4, seed=1)
    assert [reply.message for (reply,) in cold] == [
        reply.message for (reply,) in model.answers(EXAMPLES, max_tokens=8)]


def test_the_likelihood_of_answers_is_that_of_each_alone(model: LocalModel, tiny_hf: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_hf)
    plain: Any = AutoModelForCausalLM.from_pretrained(tiny_hf, dtype=torch.float32)
    found = model.likelihoods(EXAMPLES)
    for one, got in zip(EXAMPLES, found, strict=True):
        assert one.answer is not None
        messages = [{"role": "user", "content": one.prompt[0].content}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        whole = tokenizer(prompt + one.answer.content + "<|im_end|>", add_special_tokens=False)["input_ids"]
        before = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        with torch.inference_mode():
            log_p = plain(torch.tensor([whole])).logits[0].log_softmax(-1)
        nats = -sum(float(log_p[at - 1, whole[at]]) for at in range(before, len(whole)))
        assert got.tokens == len(whole) - before
        assert got.nats == pytest.approx(nats, rel=1e-4)
    nats, tokens = sum(one.nats for one in found), sum(one.tokens for one in found)
    assert model.perplexity(EXAMPLES) == pytest.approx(math.exp(nats / tokens))


def test_the_first_token_comes_before_the_last(model: LocalModel) -> None:
    reply = model.answer_timed(EXAMPLES[0], 12)
    assert reply.first_token_s is not None
    assert 0 < reply.first_token_s < reply.seconds
    assert [[reply.message]] == [[one.message for one in model.answers(EXAMPLES[:1], max_tokens=12)[0]]]


def test_an_adapter_changes_what_is_said_and_must_fit(tiny_hf: Path, model: LocalModel, tmp_path: Path) -> None:
    base: Any = AutoModelForCausalLM.from_pretrained(tiny_hf, dtype=torch.float32)
    torch.manual_seed(1)
    with warnings.catch_warnings():
        # peft asks transformers in a way that transformers finds old.
        warnings.simplefilter("ignore", FutureWarning)
        wrapped: Any = get_peft_model(
            base, LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False))
    wrapped.save_pretrained(tmp_path / "adapter")
    with_adapter = LocalModel(tiny_hf, tmp_path / "adapter")
    said = [one.message for (one,) in with_adapter.answers(EXAMPLES, max_tokens=12)]
    assert said != [one.message for (one,) in model.answers(EXAMPLES, max_tokens=12)]

    shutil.copytree(tmp_path / "adapter", tmp_path / "pickled")
    (tmp_path / "pickled" / "adapter_model.safetensors").rename(tmp_path / "pickled" / "adapter_model.bin")
    with pytest.raises(RefusedFile, match="pickle"):
        LocalModel(tiny_hf, tmp_path / "pickled")


def test_a_folder_that_lacks_weights_is_no_model(tiny_hf: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "damaged"
    shutil.copytree(tiny_hf, folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CorruptFile, match=r"lacks 1 of its weights \(model\.layers\.1\.mlp\.up_proj\.weight"):
        LocalModel(folder)


def test_a_prompt_longer_than_the_context_is_refused(model: LocalModel) -> None:
    long = example("License " * 600)
    with pytest.raises(InvalidRequest, match=f"example {long.id} has a prompt of .* context of 512"):
        model.answers([long], max_tokens=4)
    nearly = example("License " * 150)
    room = 512 - (model.answers([nearly], max_tokens=1)[0][0].prompt_tokens or 0)
    replies = model.answers([*EXAMPLES, nearly], max_tokens=room + 50, batch_size=8)
    assert replies[-1][0].completion_tokens == room


def test_calls_are_read_where_tools_are_there(tiny_hf: Path, tmp_path: Path) -> None:
    """A random model calls nothing, so what it says is given."""
    folder = tmp_path / "tools"
    shutil.copytree(tiny_hf, folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{% if tools %}<tools>{{ tools | tojson }}</tools> <tool_call>{% endif %}" + tokenizer.chat_template)
    tokenizer.save_pretrained(folder)
    model = LocalModel(folder)
    tool = {"type": "function", "function": {"name": "light", "parameters": {"type": "object"}}}
    asked = Example(id="1", prompt=(Message("user", "on"),), tools=(tool,))
    text = '<tool_call>\n{"name": "light", "arguments": {"on": true}}\n</tool_call>'
    tokens = [*model.tokenizer(text, add_special_tokens=False)["input_ids"], model.tokenizer.eos_token_id]
    reply = model._reply(asked, [1], tokens, 0.0)
    assert reply.finish_reason == "tool_calls"
    assert reply.message == Message("assistant", "", ({
        "id": "call_0", "type": "function", "function": {"name": "light", "arguments": '{"on": true}'}},))
