"""Prompts that are ready before anybody asks, and a purge after which nobody meets what was said before."""

from __future__ import annotations

from queue import SimpleQueue

import msgspec
import pytest

from edged.engines.fake import FakeGenerator, Knobs
from edged.errors import InvalidRequest
from edged.ipc.messages import Forget
from edged.types import ChatPrompt, Finished, GenerateRequest, SamplingParams, Started, TokenPrompt
from edged.worker.orders import Noted, Order, Warm
from edged.worker.prefix import OPERATOR_SCOPE
from edged.worker.prepare import Prepared
from edged.worker.warm import render_warm_prompts
from tests.unit.worker.played import Played, play, request, words

pytestmark = pytest.mark.unit

SYSTEM = words(200, seed=3)


def warm(tokens: list[int], number: int = 1) -> Warm[Prepared]:
    asked = GenerateRequest(id=f"warm-{number}", prompt=TokenPrompt(tokens), max_tokens=0, cache_scope=OPERATOR_SCOPE)
    return Warm(Prepared(asked, tokens, SamplingParams(temperature=0.0), len(tokens)))


def asked(id: str, tokens: list[int], *, scope: str = "", max_tokens: int = 4) -> GenerateRequest:
    return msgspec.structs.replace(request(tokens, id=id, max_tokens=max_tokens), cache_scope=scope)


def cached(played: Played, id: str) -> int:
    usage = played[id].usage
    assert usage is not None
    return usage.cached_tokens


@pytest.mark.parametrize("rows", [1, 4])
def test_the_first_client_of_any_scope_finds_it_computed(rows: int) -> None:
    played = play([
        (-1, warm(SYSTEM)), (50, asked("a", [*SYSTEM, 300], scope="one")),
        (60, asked("b", [*SYSTEM, 301], scope="two")),
    ], Knobs(rows=rows), ram_bytes=1 << 20)
    assert (cached(played, "a"), cached(played, "b")) == (len(SYSTEM), len(SYSTEM))


def test_nobody_hears_of_it_and_no_statistics_count_it() -> None:
    played = play([(-1, warm(SYSTEM)), (-1, warm(words(50, seed=9), 2)), (50, asked("a", words(20)))])
    assert {event.id for _, event in played.log} == {"a"}
    assert played.stats.prefix_query_tokens == 20
    assert played.generator.computed >= 250


def test_a_client_goes_before_and_what_was_computed_stays() -> None:
    knobs = Knobs(step_tokens=20)
    played = play([
        (-1, warm(SYSTEM)), (4, asked("a", words(10, seed=8))), (60, asked("b", [*SYSTEM, 300])),
    ], knobs)
    assert played.step_of(Started, "a") <= 5
    assert played.step_of(Finished, "a") <= 10
    assert cached(played, "b") == len(SYSTEM)
    assert played.generator.computed <= len(SYSTEM) + 10 + 4 + 1 + 4 + 2, "nothing was computed twice"


def test_a_client_who_comes_with_it_takes_over_what_there_is() -> None:
    played = play([(-1, warm(SYSTEM)), (4, asked("a", [*SYSTEM, 300]))], Knobs(step_tokens=20, rows=1))
    assert 0 < cached(played, "a") < len(SYSTEM)


def test_what_fails_while_it_is_warmed_hurts_nobody() -> None:
    # The last piece is one token, and so the first step that counts as a decode.
    knobs = Knobs(fail_at_token=1, step_tokens=len(SYSTEM) - 1)
    played = play([(-1, warm(SYSTEM)), (-1, warm(words(50, seed=9), 2)), (50, asked("a", [*SYSTEM, 300])),
                   (60, asked("b", [*words(50, seed=9), 300]))], knobs)
    assert {event.id for _, event in played.log} == {"a", "b"}
    assert played["a"].usage is not None
    assert (cached(played, "a"), cached(played, "b")) == (0, 50)


def test_notes_are_told() -> None:
    assert play([(-1, Noted("one")), (-1, Noted("two"))]).stats.notes == ("one", "two")


def test_after_a_purge_nothing_of_before_is_met_but_what_is_warm_comes_again() -> None:
    prompt = words(80, seed=5)
    played = play([
        (-1, warm(SYSTEM)), (50, asked("a", prompt)), (100, Forget()), (101, asked("b", prompt)),
        (150, asked("c", [*SYSTEM, 300])),
    ], ram_bytes=1 << 20)
    assert cached(played, "b") == 0
    assert cached(played, "c") == len(SYSTEM)


@pytest.mark.parametrize("n", [1, 3])
def test_what_runs_at_a_purge_ends_as_it_would_and_is_not_kept(n: int) -> None:
    prompt = words(80, seed=5)
    running = msgspec.structs.replace(request(prompt, id="a", max_tokens=20), n=n)
    played = play([(-1, running), (3, Forget()), (90, asked("b", prompt))], ram_bytes=1 << 20)
    undisturbed = play([running])
    assert [choice.text for choice in played["a"].choices.values()] == [
        choice.text for choice in undisturbed["a"].choices.values()]
    assert cached(played, "b") == 0


def test_what_was_set_aside_or_waits_at_a_purge_is_not_kept_either() -> None:
    prompts = [words(60, seed=seed) for seed in range(4)]
    crowd = [asked(f"r{number}", prompt, max_tokens=30) for number, prompt in enumerate(prompts)]
    later = [(200 + number, asked(f"s{number}", prompt)) for number, prompt in enumerate(prompts)]
    played = play([*crowd, (6, Forget()), *later], Knobs(rows=2, kv_tokens=200, context=200), ram_bytes=1 << 20)
    assert [cached(played, f"s{number}") for number in range(4)] == [0] * 4


# rendering

def rendered(*texts: str, template: str = "<{system}>[{user}]") -> list[Order[Prepared]]:
    vocab = FakeGenerator(Knobs()).vocab

    def prepare(asked: GenerateRequest) -> Prepared:
        prompt = asked.prompt
        if isinstance(prompt, ChatPrompt):
            system, user = (message["content"] for message in prompt.messages)
            if "refuse" in system:
                raise InvalidRequest("This model knows no system messages.")
            text = template.format(system=system.strip(), user=user)
            return Prepared(asked, vocab.tokenize(text, special=False, bos=True), SamplingParams(), 4096)
        assert isinstance(prompt, TokenPrompt)
        return Prepared(asked, prompt.tokens, SamplingParams(), len(prompt.tokens))

    inbox: SimpleQueue[Order[Prepared]] = SimpleQueue()
    render_warm_prompts(texts, prepare, inbox)
    return [inbox.get(timeout=10) for _ in texts]


def test_a_warm_prompt_is_what_every_chat_with_it_begins_with() -> None:
    (order,) = rendered(" You are a clock. ")
    assert isinstance(order, Warm)
    vocab = FakeGenerator(Knobs()).vocab
    assert b"".join(map(vocab.piece, order.prepared.tokens)) == b"<You are a clock.>["
    assert order.prepared.request.max_tokens == 0
    assert order.prepared.request.cache_scope == OPERATOR_SCOPE


def test_one_that_the_template_refuses_is_one_line_and_the_others_are_warm() -> None:
    first, second = rendered("refuse this, please", "You are a clock.")
    assert isinstance(first, Noted)
    assert first.text == "warm prompt 1 (refuse this, please) is not warm: This model knows no system messages."
    assert isinstance(second, Warm)


@pytest.mark.parametrize("template", ["[{user}]", "[{user}]<{system}>"])
def test_one_that_the_template_does_not_show_first_is_told(template: str) -> None:
    (order,) = rendered("You are a clock.", template=template)
    assert isinstance(order, Noted)
    assert "does not show a system message before the first message of the user" in order.text
