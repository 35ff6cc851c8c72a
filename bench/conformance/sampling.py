"""Fields that steer an answer: each is given a value whose effect cannot be missed."""

from __future__ import annotations

import math
from typing import Any

from bench.conformance.outcome import check, expect
from bench.conformance.server import COUNTING, QUESTION, Server, content

AREA = "/v1/chat/completions"
#: A token that every vocabulary has.
SOME_TOKEN = 1000


def wild(server: Server, seed: int, **fields: Any) -> str:
    """Drawn at a temperature at which two seeds do not write the same by chance."""
    return server.text(*fields, said=QUESTION, temperature=2, seed=seed, **fields)


def narrows(server: Server, **fields: Any) -> None:
    """A filter that leaves one token makes chance disappear."""
    texts = {wild(server, seed, **fields) for seed in (1, 2)}
    expect(len(texts) == 1, "two seeds at temperature 2 write two texts")
    expect(len({wild(server, seed) for seed in (1, 2)}) == 2, "two seeds write the same text without it too")


@check(AREA, "max_tokens")
def max_tokens(server: Server) -> None:
    answer = server.chat("max_tokens", max_tokens=5)
    expect(answer["usage"]["completion_tokens"] == 5, f"{answer['usage']['completion_tokens']} tokens instead of 5")
    expect(answer["choices"][0]["finish_reason"] == "length", f"finish_reason {answer['choices'][0]['finish_reason']}")


@check(AREA, "max_completion_tokens")
def max_completion_tokens(server: Server) -> None:
    answer = server.chat("max_completion_tokens", max_tokens=None, max_completion_tokens=5)
    expect(answer["usage"]["completion_tokens"] == 5, f"{answer['usage']['completion_tokens']} tokens instead of 5")


@check(AREA, "temperature")
def temperature(server: Server) -> None:
    greedy = {server.text("temperature", said=QUESTION, seed=seed) for seed in (1, 2)}
    expect(len(greedy) == 1, "temperature 0 is not greedy")
    expect(len({wild(server, seed) for seed in (1, 2, 3)}) > 1, "temperature 2 changes nothing")


@check(AREA, "top_p")
def top_p(server: Server) -> None:
    narrows(server, top_p=1e-6)


@check(AREA, "top_k", own=True)
def top_k(server: Server) -> None:
    narrows(server, top_k=1)


@check(AREA, "min_p", own=True)
def min_p(server: Server) -> None:
    narrows(server, min_p=1.0)


@check(AREA, "typical_p", own=True)
def typical_p(server: Server) -> None:
    narrows(server, typical_p=1e-6)


def changes(server: Server, **field: Any) -> None:
    """A penalty changes a text that repeats itself: a long one, drawn twice alike without it."""
    said: dict[str, Any] = {
        "said": "Repeat the word apple: apple apple apple", "max_tokens": 40, "temperature": 1, "seed": 3}
    without = server.text(**said)
    expect(without == server.text(**said), "the same seed writes two texts, so nothing can be seen")
    expect(without != server.text(*field, **said, **field), "the text is the same without it")


@check(AREA, "repetition_penalty", own=True)
def repetition_penalty(server: Server) -> None:
    changes(server, repetition_penalty=8)


@check(AREA, "presence_penalty")
def presence_penalty(server: Server) -> None:
    changes(server, presence_penalty=2)


@check(AREA, "frequency_penalty")
def frequency_penalty(server: Server) -> None:
    changes(server, frequency_penalty=2)


@check(AREA, "logit_bias")
def logit_bias(server: Server) -> None:
    text = server.text("logit_bias", max_tokens=6, logit_bias={str(SOME_TOKEN): 100})
    unit = text[:len(text) // 6]
    expect(text and text == unit * 6, f"a bias of 100 forces no token: {text!r}")


@check(AREA, "seed")
def seed(server: Server) -> None:
    expect(wild(server, 7) == wild(server, 7), "the same seed writes two texts")
    expect(len({wild(server, seed) for seed in (7, 8, 9)}) > 1, "all seeds write the same text")


@check(AREA, "stop (inside of tokens)")
def stop(server: Server) -> str:
    whole = server.text(max_tokens=24)
    # From the middle of one number to the middle of the next: no token is this text.
    stop = whole[5:9]
    answer = server.chat("stop", max_tokens=24, stop=stop)
    expected = whole[:whole.index(stop)]
    expect(content(answer) == expected, f"{content(answer)!r} for stop {stop!r} in {whole!r}")
    expect(answer["choices"][0]["finish_reason"] == "stop", f"finish_reason {answer['choices'][0]['finish_reason']}")
    expect(server.streamed("stop", max_tokens=24, stop=stop) == expected, "the stream shows more than the answer")
    return ""


@check(AREA, "stop (16 strings)")
def stop_many(server: Server) -> None:
    whole = server.text(max_tokens=24)
    stop = whole[5:9]
    many = [f"never{index}" for index in range(15)] + [stop]
    expect(server.text("stop", max_tokens=24, stop=many) == whole[:whole.index(stop)], "the last of 16 is not matched")


@check(AREA, "n")
def n(server: Server) -> None:
    answer = server.chat("n", said=QUESTION, n=3, temperature=1.8, seed=5)
    expect(len(answer["choices"]) == 3, f"{len(answer['choices'])} choices instead of 3")
    expect([choice["index"] for choice in answer["choices"]] == [0, 1, 2], "choices are not numbered")
    expect(len({choice["message"]["content"] for choice in answer["choices"]}) > 1, "three times the same choice")


@check(AREA, "n, streamed")
def n_streamed(server: Server) -> None:
    chunks = server.chunks("n", said=QUESTION, n=2, temperature=1.8, seed=5)
    seen = {choice["index"] for chunk in chunks for choice in chunk["choices"]}
    expect(seen == {0, 1}, f"choices {sorted(seen)} instead of 0 and 1")


@check(AREA, "stream equals the whole answer")
def stream_equal(server: Server) -> None:
    said: dict[str, Any] = {"said": "Write three emojis and their names.", "max_tokens": 32}
    whole, streamed = server.text("stream", **said), server.streamed("stream", **said)
    expect(whole == streamed, f"{streamed!r} streamed, {whole!r} whole")


@check(AREA, "stream_options.include_usage")
def include_usage(server: Server) -> None:
    chunks = server.chunks("stream_options", stream_options={"include_usage": True})
    usage = chunks[-1].get("usage")
    expect(usage, "no usage in the last chunk")
    expect(usage["completion_tokens"] == server.chat()["usage"]["completion_tokens"], "another count than unstreamed")
    expect(chunks[-1]["choices"] == [], "the usage chunk has choices")


@check(AREA, "usage")
def usage(server: Server) -> None:
    short, long = (server.chat(said="a " * count)["usage"] for count in (10, 110))
    expect(long["prompt_tokens"] - short["prompt_tokens"] >= 90, "prompt_tokens do not grow with the prompt")
    for told in (short, long):
        expect(told["total_tokens"] == told["prompt_tokens"] + told["completion_tokens"], "the total is no sum")


@check(AREA, "usage.prompt_tokens_details.cached_tokens")
def cached_tokens(server: Server) -> None:
    said = "Tell me about " + ", ".join(f"topic {index}" for index in range(60))
    server.chat(said=said)
    told = (server.chat(said=said)["usage"].get("prompt_tokens_details") or {}).get("cached_tokens")
    expect(told is not None, "not told")
    expect((told or 0) > 100, f"{told} of a prompt that was just computed")


def token_logprobs(answer: Any) -> list[Any]:
    told = answer["choices"][0].get("logprobs")
    expect(told and told.get("content"), "no logprobs in the answer")
    return list(told["content"])


@check(AREA, "logprobs")
def logprobs(server: Server) -> None:
    answer = server.chat("logprobs", logprobs=True)
    tokens = token_logprobs(answer)
    expect(len(tokens) == 12, f"{len(tokens)} entries for 12 tokens")
    expect(all(token["logprob"] <= 0 for token in tokens), "a log-probability above 0")
    raw = b"".join(bytes(token["bytes"] or []) for token in tokens)
    expect(raw.decode(errors="replace").strip() == content(answer).strip(), "the bytes are not those of the text")


@check(AREA, "top_logprobs")
def top_logprobs(server: Server) -> None:
    for token in token_logprobs(server.chat("top_logprobs", logprobs=True, top_logprobs=20)):
        tops = token["top_logprobs"]
        expect(len(tops) == 20, f"{len(tops)} instead of 20")
        total = sum(math.exp(top["logprob"]) for top in tops)
        expect(total <= 1 + 1e-3, f"probabilities that sum to {total:.3f}")
        expect(token["logprob"] >= max(top["logprob"] for top in tops) - 1e-3, "the greedy token is not the likeliest")


@check(AREA, "logprobs, streamed")
def logprobs_streamed(server: Server) -> None:
    chunks = server.chunks("logprobs", logprobs=True, top_logprobs=2)
    told = [token for chunk in chunks for choice in chunk["choices"] if choice.get("logprobs")
            for token in choice["logprobs"].get("content") or []]
    expect(len(told) == 12, f"{len(told)} entries for 12 tokens")


@check(AREA, "logprobs are of the model, before temperature")
def logprobs_raw(server: Server) -> None:
    cold = token_logprobs(server.chat("logprobs", logprobs=True, top_logprobs=2, max_tokens=1))[0]
    warm = token_logprobs(server.chat("logprobs", logprobs=True, top_logprobs=2, max_tokens=1, temperature=2,
                                      seed=1))[0]
    gaps = [top[0]["logprob"] - top[1]["logprob"] for top in (cold["top_logprobs"], warm["top_logprobs"])]
    expect(abs(gaps[0] - gaps[1]) < 0.2, f"the two likeliest are {gaps[0]:.2f} apart, at temperature 2 {gaps[1]:.2f}")


@check(AREA, "timeout_s", own=True)
def timeout(server: Server) -> None:
    reply = server.send("POST", "/v1/chat/completions", server.chat_body(
        max_tokens=200, timeout_s=0.001))
    expect(reply.status >= 400, "an answer after its time")
    if reply.status != 504:
        server.took(reply, "", "timeout_s")


@check(AREA, "keep_alive", own=True)
def keep_alive(server: Server) -> None:
    server.refusal("/v1/chat/completions", server.chat_body(keep_alive="soon"), "keep_alive")
    server.chat("keep_alive", keep_alive="5m", said=COUNTING)
