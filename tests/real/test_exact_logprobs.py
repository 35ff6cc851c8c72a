"""Log-probabilities are those of transformers on the same weights, in fp32, to a thousandth: of answers and of echoed
prompts, of chat and completions, streamed and not, on ONNX Runtime and on llama.cpp. And what fills a gap is what
transformers writes after the same tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from converters.gguf import unquantized
from converters.positions import gather_positions
from edged.store import Store
from tests.daemon import Daemon
from tests.models import install
from tests.real.tiny_model import make_hf, make_onnx

pytestmark = pytest.mark.real

TOLERANCE = 1e-3
CATALOG = """
[models.onnx]
[models.gguf]
[models.gguf.options]
key_type = "f32"
value_type = "f32"
flash_attention = false
"""
PROMPT = "The Licensor hereby grants to you"
#: Special tokens, which would end an answer or have no text.
NO_TEXT = [0, 1, 2, 512, 513, 514]
WORDS_ONLY = {str(token): -100 for token in NO_TEXT}
GAP = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")


class Reference:
    """transformers, in fp32."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def logprobs(self, tokens: list[int]) -> torch.Tensor:
        """[position, token]: of what follows each position."""
        with torch.inference_mode():
            return torch.log_softmax(self._model(torch.tensor([tokens])).logits[0], -1)

    def greedy(self, tokens: list[int], count: int) -> list[int]:
        written = list(tokens)
        for _ in range(count):
            following = self.logprobs(written)[-1].clone()
            following[NO_TEXT] = -torch.inf
            written.append(int(following.argmax()))
        return written[len(tokens):]


@dataclass
class Exact:
    client: openai.OpenAI
    url: str
    reference: Reference


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exact]:
    """One daemon that serves the same tiny model on both engines."""
    folder = tmp_path_factory.mktemp("exact")
    hf = make_hf(folder / "hf", special=GAP)
    make_onnx(hf, folder / "onnx")
    gather_positions(folder / "onnx")
    (folder / "work").mkdir()
    unquantized(hf, folder / "gguf", work=folder / "work", progress=lambda done, note: None)
    daemon = Daemon(folder / "daemon")
    for name in ("onnx", "gguf"):
        install(Store(daemon.home), str(folder / name))
    daemon.models_file.write_text(CATALOG)
    with daemon:
        client = openai.OpenAI(base_url=daemon.base_url + "/v1", api_key="none", max_retries=0, timeout=60)
        yield Exact(client, daemon.base_url, Reference(hf))


@pytest.fixture(params=["onnx", "gguf"])
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ids(exact: Exact, model: str, **said: Any) -> list[int]:
    reply = httpx.post(f"{exact.url}/edged/v1/tokenize", json={"model": model, **said}, timeout=60)
    assert reply.status_code == 200, reply.text
    return [int(token) for token in reply.json()["tokens"]]


def test_a_prompt_is_read_as_transformers_reads_it(exact: Exact, model: str) -> None:
    messages: list[Any] = [{"role": "user", "content": PROMPT}]
    rendered = exact.reference.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    told = httpx.post(f"{exact.url}/edged/v1/apply-template", json={"model": model, "messages": messages}).json()
    assert told["prompt"] == rendered
    assert ids(exact, model, messages=messages) == exact.reference.tokenizer.encode(rendered)
    assert ids(exact, model, text=PROMPT, add_special_tokens=False) == exact.reference.tokenizer.encode(PROMPT)


def test_an_echoed_prompt_and_its_answer_are_scored_exactly(exact: Exact, model: str) -> None:
    tokens = exact.reference.tokenizer.encode(PROMPT)
    answer = exact.client.completions.create(
        model=model, prompt=tokens, max_tokens=8, echo=True, logprobs=5, temperature=0, logit_bias=WORDS_ONLY)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    values: list[float | None] = list(logprobs.token_logprobs or [])
    assert values[0] is None
    whole = [*tokens, *exact.reference.greedy(tokens, 8)]
    expected = exact.reference.logprobs(whole)
    assert len(values) == len(whole)
    for position, value in enumerate(values[1:], start=1):
        assert value == pytest.approx(float(expected[position - 1, whole[position]]), abs=TOLERANCE)
    tops: list[dict[str, float] | None] = list(logprobs.top_logprobs or [])
    for position, top in enumerate(tops[1:], start=1):
        assert top is not None
        best = expected[position - 1].topk(5).values.tolist()
        assert sorted(top.values(), reverse=True)[:5] == pytest.approx(best, abs=TOLERANCE)
    assert answer.choices[0].text == exact.reference.tokenizer.decode(whole)


def test_a_chat_is_scored_exactly_streamed_and_not(exact: Exact, model: str) -> None:
    messages: list[Any] = [{"role": "user", "content": PROMPT}]
    said: dict[str, Any] = {
        "model": model, "messages": messages, "max_tokens": 12, "temperature": 0, "logprobs": True, "top_logprobs": 20,
        "logit_bias": WORDS_ONLY,
    }
    prompt = ids(exact, model, messages=messages)
    written = exact.reference.greedy(prompt, 12)
    expected = exact.reference.logprobs([*prompt, *written])[len(prompt) - 1:]
    plain = exact.client.chat.completions.create(**said).choices[0].logprobs
    assert plain is not None
    streamed = [
        token for chunk in exact.client.chat.completions.create(**said, stream=True)
        for choice in chunk.choices if choice.logprobs for token in choice.logprobs.content or []
    ]
    for told in (plain.content or [], streamed):
        assert len(told) == 12
        for token, follows, row in zip(told, written, expected, strict=False):
            assert token.token == exact.reference.tokenizer.decode([follows])
            assert token.logprob == pytest.approx(float(row[follows]), abs=TOLERANCE)
            assert [top.logprob for top in token.top_logprobs] == pytest.approx(
                row.topk(20).values.tolist(), abs=TOLERANCE)


def test_the_best_of_several_is_the_likeliest(exact: Exact, model: str) -> None:
    said: dict[str, Any] = {"model": model, "prompt": PROMPT, "max_tokens": 6, "temperature": 2, "seed": 3,
                            "logprobs": 0, "logit_bias": WORDS_ONLY}
    every = exact.client.completions.create(**said, n=6).choices
    best = exact.client.completions.create(**said, best_of=6).choices
    means = {choice.text: sum(choice.logprobs.token_logprobs or []) / 6 for choice in every if choice.logprobs}
    assert len(means) > 3
    assert [choice.text for choice in best] == [max(means, key=means.__getitem__)]


def test_a_gap_is_filled_after_the_models_own_tokens(exact: Exact, model: str) -> None:
    answer = exact.client.completions.create(
        model=model, prompt=PROMPT, suffix=" a license.", max_tokens=8, temperature=0, logit_bias=WORDS_ONLY)
    before, after, middle = GAP
    asked = exact.reference.tokenizer.encode(f"{before}{PROMPT}{after} a license.{middle}")
    assert len([token for token in asked if token >= 512]) == 3
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(asked)
    assert answer.choices[0].text == exact.reference.tokenizer.decode(exact.reference.greedy(asked, 8))
