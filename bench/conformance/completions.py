"""/v1/completions."""

from __future__ import annotations

from typing import Any

from bench.conformance.outcome import check, expect
from bench.conformance.server import COUNTING, QUESTION, Server

AREA = "/v1/completions"
#: Tokens that every vocabulary has.
TOKENS = [1000, 1001, 1002, 1003]


def text(answer: Any) -> str:
    return str(answer["choices"][0]["text"])


@check(AREA, "prompt: a string")
def plain(server: Server) -> None:
    answer = server.complete("prompt")
    expect(text(answer), "no text")
    expect(answer["usage"]["completion_tokens"] == 12, f"{answer['usage']['completion_tokens']} tokens instead of 12")


@check(AREA, "prompt: a list of strings")
def several(server: Server) -> None:
    answer = server.complete("prompt", prompt=[COUNTING, QUESTION])
    expect(len(answer["choices"]) == 2, f"{len(answer['choices'])} choices for 2 prompts")
    by_index = {choice["index"]: choice["text"] for choice in answer["choices"]}
    expect(by_index[0] == text(server.complete()), "the first answer is another one than alone")


@check(AREA, "prompt: token ids")
def token_ids(server: Server) -> None:
    told = server.complete("prompt", prompt=TOKENS)["usage"]["prompt_tokens"]
    expect(len(TOKENS) <= told <= len(TOKENS) + 1, f"{told} tokens for {len(TOKENS)}")


@check(AREA, "prompt: lists of token ids")
def token_lists(server: Server) -> None:
    answer = server.complete("prompt", prompt=[TOKENS, TOKENS[:2]])
    expect(len(answer["choices"]) == 2, f"{len(answer['choices'])} choices for 2 prompts")


@check(AREA, "max_tokens is 16 where it is not said")
def default_length(server: Server) -> None:
    # Each token is an event, and the end is one or two.
    seen = server.first_events(AREA, {"model": server.model, "prompt": COUNTING, "temperature": 0, "stream": True}, 24)
    expect(seen < 24, "more than 16 tokens come")
    expect(seen > 8, f"{seen} events")


@check(AREA, "n")
def n(server: Server) -> None:
    answer = server.complete("n", prompt=QUESTION, n=3, temperature=1.8, seed=3)
    expect(len(answer["choices"]) == 3, f"{len(answer['choices'])} choices instead of 3")


@check(AREA, "best_of")
def best_of(server: Server) -> None:
    said: dict[str, Any] = {"prompt": QUESTION, "temperature": 1.8, "seed": 3, "max_tokens": 6}
    answer = server.complete("best_of", **said, best_of=4)
    expect(len(answer["choices"]) == 1, f"{len(answer['choices'])} choices instead of 1")
    expect(answer["usage"]["completion_tokens"] > 12, "no more than one was written")


@check(AREA, "best_of below n is refused")
def best_of_below(server: Server) -> None:
    server.refusal(AREA, {"model": server.model, "prompt": "x", "n": 3, "best_of": 2, "max_tokens": 2}, "best_of")


@check(AREA, "echo")
def echo(server: Server) -> None:
    expect(text(server.complete("echo", echo=True)) == COUNTING + text(server.complete()), "the prompt is not there")


@check(AREA, "logprobs")
def logprobs(server: Server) -> None:
    told = server.complete("logprobs", logprobs=3)["choices"][0].get("logprobs")
    expect(told, "none")
    expect(len(told["token_logprobs"]) == 12, f"{len(told['token_logprobs'])} entries for 12 tokens")
    expect(all(len(top) >= 3 for top in told["top_logprobs"]), "fewer than 3 of the likeliest")


@check(AREA, "echo and logprobs: a prompt that is scored")
def scored(server: Server) -> None:
    answer = server.complete("echo", "logprobs", "max_tokens", echo=True, logprobs=1, max_tokens=0)
    told = answer["choices"][0].get("logprobs")
    expect(told, "none")
    values = told["token_logprobs"]
    expect(len(values) == answer["usage"]["prompt_tokens"], f"{len(values)} values for the prompt")
    expect(values[0] is None and all(value <= 0 for value in values[1:]), "the first value is not null")
    expect(len({round(value, 3) for value in values[1:]}) > 3, "all values are the same")


@check(AREA, "suffix")
def suffix(server: Server) -> None:
    """Of a model that fills no gaps it cannot be honoured."""
    with_it = text(server.complete("suffix", suffix=" and the sea was calm."))
    expect(with_it != text(server.complete()), "the text is the same without it")


@check(AREA, "stop (inside of tokens)")
def stop(server: Server) -> None:
    whole = text(server.complete(max_tokens=24))
    answer = server.complete("stop", max_tokens=24, stop=[whole[5:9]])
    expect(text(answer) == whole[:whole.index(whole[5:9])], f"{text(answer)!r} of {whole!r}")
    expect(answer["choices"][0]["finish_reason"] == "stop", "finish_reason is not stop")


@check(AREA, "stream equals the whole answer")
def stream(server: Server) -> None:
    events = server.events(AREA, {"model": server.model, "prompt": COUNTING, "max_tokens": 12, "temperature": 0,
                                  "stream": True}, "stream")
    joined = "".join(choice["text"] for _, data in events if data != "[DONE]" for choice in data["choices"])
    expect(joined == text(server.complete()), "another text")


@check(AREA, "seed")
def seed(server: Server) -> None:
    said: dict[str, Any] = {"prompt": QUESTION, "temperature": 2}
    expect(text(server.complete("seed", **said, seed=7)) == text(server.complete("seed", **said, seed=7)),
           "the same seed writes two texts")
    expect(len({text(server.complete(**said, seed=seed)) for seed in (7, 8, 9)}) > 1, "all seeds write the same text")


@check(AREA, "logit_bias")
def logit_bias(server: Server) -> None:
    found = text(server.complete("logit_bias", max_tokens=6, logit_bias={"1000": 100}))
    expect(found and found == found[:len(found) // 6] * 6, f"a bias of 100 forces no token: {found!r}")


@check(AREA, "a prompt over the context")
def over_context(server: Server) -> None:
    server.refusal(AREA, {"model": server.model, "prompt": "one two three " * server.context, "max_tokens": 4},
                   "context")


@check(AREA, "an unknown field")
def unknown(server: Server) -> None:
    reply = server.send("POST", AREA, {"model": server.model, "prompt": "x", "max_tokens": 2, "temprature": 1})
    if reply.status < 300:
        expect("temprature" in str(reply.headers).lower(), "taken and dropped")
    else:
        server.took(reply, AREA, "temprature")
