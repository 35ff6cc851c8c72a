"""One choice: logits in, events out. The logits here force the tokens that a test wants."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edged.engines.base import EngineError, Logits
from edged.types import ChatPrompt, Delta, GenerateRequest, Prompt, SamplingParams, TokenLogprob, TokenPrompt
from edged.worker.answer import Answer, End
from edged.worker.prepare import Prepared
from tests.unit.worker.vocabs import ByteVocab

pytestmark = pytest.mark.unit

END = 256


class Vocab(ByteVocab):
    """A token for each byte, one that ends the answer, and the pieces given."""

    end = frozenset({END})

    def __init__(self, *pieces: bytes, strips: bool = False) -> None:
        super().__init__([*(bytes([byte]) for byte in range(256)), b"", *pieces], strips=strips)


def forced(vocab: Vocab, token: int) -> Logits:
    logits = np.zeros(vocab.size, np.float32)
    logits[token] = 5.0
    return logits


class Told:
    """An answer that was made to say these tokens, as far as it went."""

    def __init__(
        self, tokens: Sequence[int], vocab: Vocab, *, stop: tuple[str, ...] = (), max_tokens: int | None = None,
        logprobs: int | None = None, echo: bool = False, prompt: Prompt | None = None,
    ) -> None:
        prompt = prompt or TokenPrompt(list(b"prompt"))
        request = GenerateRequest(id="r", prompt=prompt, stop=stop, max_tokens=max_tokens, logprobs=logprobs, echo=echo)
        known = list(prompt.tokens) if isinstance(prompt, TokenPrompt) else [65]
        longest = 1000 if max_tokens is None else len(known) + max_tokens
        self.answer = Answer(Prepared(request, known, SamplingParams(temperature=0.0), longest), 0, vocab, seed=1)
        self.deltas: list[Delta] = []
        self.end: End | None = None
        if echo and logprobs is not None:
            self.answer.echo_logprobs(0, np.stack([forced(vocab, token) for token in [*known[1:], 0]]))
        self._keep(self.answer.start())
        for token in tokens:
            taken = self.answer.take(forced(vocab, token)[None])
            assert taken.tokens == [token]
            self._keep(taken.delta)
            self.end = taken.end
            if self.end is not None:
                break
        else:
            self._keep(self.answer.rest())

    def _keep(self, delta: Delta | None) -> None:
        if delta is not None:
            self.deltas.append(delta)

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def tokens(self) -> int:
        return sum(delta.tokens for delta in self.deltas)

    @property
    def logprobs(self) -> list[TokenLogprob]:
        return [entry for delta in self.deltas for entry in delta.logprobs]


TEXT = "Grüße 語, 🙂! STOP and more"


@pytest.mark.parametrize("cut", range(len(TEXT.encode()) + 1))
def test_a_stop_string_is_matched_wherever_tokens_cut_the_text(cut: int) -> None:
    data = TEXT.encode()
    vocab = Vocab(data[:cut], data[cut:])
    told = Told([piece for piece in (257, 258) if vocab.piece(piece)], vocab, stop=("STOP",))
    assert told.text == "Grüße 語, 🙂! "
    assert told.end == End("stop", "STOP")


@given(st.text("ab🙂語", max_size=30), st.lists(st.text("ab🙂語", min_size=1, max_size=4), max_size=3))
def test_text_in_pieces_is_the_text_up_to_the_first_stop(text: str, stops: list[str]) -> None:
    vocab = Vocab()
    told = Told(list(text.encode()), vocab, stop=tuple(stops))
    ends = [(text.index(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    if ends:
        end, length, stop = min(ends)
        assert told.text == text[: end + length]
        assert told.end == End("stop", stop)
    else:
        assert told.text == text
        assert told.end is None
    assert told.tokens == told.answer.completion_tokens


def test_no_event_holds_half_a_character_or_the_beginning_of_a_stop_string() -> None:
    told = Told(list("🙂 STx STOP".encode()), Vocab(), stop=("STOP",))
    assert [delta.text for delta in told.deltas] == ["🙂", " ", "STx", " ", ""]
    assert told.deltas[0].tokens == 4


def test_what_was_held_back_is_shown_at_the_end() -> None:
    assert Told([*b"a ST", END], Vocab(), stop=("STOP",)).text == "a ST"
    assert Told(list(b"a ST"), Vocab(), stop=("STOP",), max_tokens=4).text == "a ST"
    assert Told(list(b"a ST"), Vocab(), stop=("STOP",)).text == "a ST"


def test_half_a_character_at_the_end_becomes_a_replacement_character() -> None:
    told = Told([*"a🙂".encode()[:3], END], Vocab())
    assert told.text == "a\ufffd"
    assert told.end == End("stop")


def test_the_last_token_may_complete_a_stop_string() -> None:
    told = Told(list(b"a STOP"), Vocab(), stop=("STOP",), max_tokens=6)
    assert (told.text, told.end, told.tokens) == ("a ", End("stop", "STOP"), 6)


def test_every_token_is_counted_also_those_that_show_nothing() -> None:
    silent = Vocab(b"")
    assert Told([257, 257, END], silent).tokens == 3
    assert Told([257, 257], silent, max_tokens=2).tokens == 2
    assert Told([*b"STOP"], silent, stop=("STOP",)).tokens == 4


def test_nothing_is_said_when_there_is_nothing_to_say() -> None:
    assert Told([], Vocab()).deltas == []
    assert [delta.text for delta in Told([65], Vocab()).deltas] == ["A"]


def test_a_logprob_comes_with_the_first_character_of_its_token() -> None:
    told = Told([65, *"語".encode(), 66, END], Vocab(), logprobs=0)
    assert [(delta.text, [entry.token for entry in delta.logprobs]) for delta in told.deltas] == [
        ("A", [65]), ("語", list("語".encode())), ("B", [66]), ("", [])]


def test_logprobs_are_those_of_the_text_that_is_shown() -> None:
    """A token that is cut by the stop string is shown in part; those after it are not shown at all."""
    vocab = Vocab(b"xS", b"TOP")
    told = Told([65, 257, 258], vocab, stop=("STOP",), logprobs=0)
    assert (told.text, [entry.token for entry in told.logprobs]) == ("Ax", [65, 257])
    hidden = Told([65, *b"STOP"], vocab, stop=("STOP",), logprobs=0)
    assert (hidden.text, [entry.token for entry in hidden.logprobs]) == ("A", [65])


def test_logprobs_of_tokens_without_text_come_at_the_end() -> None:
    told = Told([65, 257, END], Vocab(b""), logprobs=0)
    assert [entry.token for entry in told.logprobs] == [65, 257]


def test_logprobs_are_natural_logarithms_of_the_raw_logits() -> None:
    vocab = Vocab()
    [entry] = Told([65, END], vocab, logprobs=2).logprobs
    log_sum = math.log(math.exp(5) + vocab.size - 1)
    assert entry.logprob == pytest.approx(5 - log_sum)
    assert [(token, raw) for token, _, raw, _ in entry.top] == [(65, b"A"), (0, b"\0")]
    assert entry.top[1][3] == pytest.approx(-log_sum)


def test_a_part_of_a_character_has_its_exact_bytes_in_the_logprobs() -> None:
    entries = Told([*"語".encode(), END], Vocab(), logprobs=0).logprobs
    assert b"".join(entry.raw for entry in entries) == "語".encode()
    assert entries[0].text == "\ufffd"


def test_an_echo_comes_first_with_no_logprob_for_its_first_token() -> None:
    told = Told([65, END], Vocab(), echo=True, logprobs=1)
    assert (told.deltas[0].text, told.deltas[0].tokens, told.text) == ("prompt", 0, "promptA")
    assert [entry.token for entry in told.logprobs] == [*b"prompt", 65]
    assert told.logprobs[0].logprob is None
    likely = 5 - math.log(math.exp(5) + 256)
    assert [entry.logprob for entry in told.logprobs[1:]] == pytest.approx([likely] * 6)


def test_an_echo_is_no_place_for_stop_strings() -> None:
    assert Told([65, END], Vocab(), echo=True, stop=("rom", "tA")).text == "promptA"


def test_echoed_logprobs_may_come_in_any_pieces_and_again() -> None:
    vocab = Vocab()
    prompt = list(b"prompt")
    rows = np.stack([forced(vocab, token) for token in [*prompt[1:], 0]])
    request = GenerateRequest(id="r", prompt=TokenPrompt(prompt), logprobs=0, echo=True)
    answer = Answer(Prepared(request, prompt, SamplingParams(temperature=0.0), 100), 0, vocab, seed=1)
    for first, last in ((0, 2), (0, 4), (2, 4), (4, 6), (0, 6), (6, 6)):
        answer.echo_logprobs(first, rows[first:last])
    answer.echo_logprobs(6, rows[:1])
    assert [entry.token for entry in answer.echoed] == prompt


def test_a_character_may_begin_in_an_echoed_prompt_and_end_in_the_answer() -> None:
    data = "a🙂".encode()
    told = Told([*data[3:], END], Vocab(), echo=True, prompt=TokenPrompt(list(data[:3])))
    assert told.text == "a🙂"


def test_a_completion_keeps_its_first_space_and_a_chat_answer_loses_it() -> None:
    vocab = Vocab(b" Paris", strips=True)
    assert Told([257, END], vocab).text == " Paris"
    assert Told([257, END], vocab, prompt=ChatPrompt(messages=[])).text == "Paris"
    assert Told([257, 257, END], vocab, echo=True, prompt=TokenPrompt([257])).text == "Paris Paris Paris"


def test_logits_that_are_no_numbers_are_an_engine_error() -> None:
    vocab = Vocab()
    told = Told([], vocab, logprobs=1, echo=True)
    with pytest.raises(EngineError):
        told.answer.take(np.full((1, vocab.size), np.nan, np.float32))
    request = GenerateRequest(id="r", prompt=TokenPrompt([1, 2]), logprobs=1, echo=True)
    echo = Answer(Prepared(request, [1, 2], SamplingParams(), 9), 0, vocab, seed=1)
    with pytest.raises(EngineError):
        echo.echo_logprobs(0, np.full((2, vocab.size), np.nan, np.float32))


def choice(vocab: Vocab, temperature: float, *, room: int = 1000, stop: tuple[str, ...] = (), seed: int = 1) -> Answer:
    request = GenerateRequest(id="r", prompt=TokenPrompt([65]), stop=stop)
    return Answer(Prepared(request, [65], SamplingParams(temperature=temperature), 1 + room), 0, vocab, seed=seed)


@given(st.lists(st.integers(97, 102), min_size=1, max_size=12), st.lists(st.integers(97, 102), max_size=11),
       st.sampled_from([(), ("cd",), ("a",)]), st.integers(1, 12))
def test_of_a_draft_all_is_taken_up_to_the_first_token_that_differs_or_ends_the_answer(
    comes: list[int], draft: list[int], stop: tuple[str, ...], room: int
) -> None:
    vocab = Vocab()
    logits = np.stack([forced(vocab, token) for token in [*comes, *[END] * (len(draft) + 1)]])[:len(draft) + 1]
    taken = choice(vocab, 0.0, room=room, stop=stop).take(logits, draft)
    plain = choice(vocab, 0.0, room=room, stop=stop)
    tokens: list[int] = []
    text = ""
    for row in logits:
        one = plain.take(row[None])
        tokens += one.tokens
        text += one.delta.text if one.delta else ""
        if one.end is not None or tokens != draft[:len(tokens)]:
            break
    assert (taken.tokens, taken.delta.text if taken.delta else "", taken.end) == (tokens, text, one.end)
    assert taken.accepted == len(tokens) - (tokens != draft[:len(tokens)])
    assert taken.refused == (tokens[-1:] != draft[len(tokens) - 1:len(tokens)] and len(tokens) <= len(draft))


def test_drafts_leave_the_distribution_of_a_text_as_it_is() -> None:
    """Three tokens of a chain in which each depends on the one before, drawn with many seeds, with and without a draft
    that is often wrong: by a chi-square test the same distribution, which is the one that the chain has."""
    vocab = Vocab()
    letters = 4
    chain = np.log(np.random.default_rng(5).dirichlet(np.ones(letters), letters + 1)).astype(np.float32)

    def row(last: int | None) -> NDArray[np.float32]:
        logits = np.full(vocab.size, -np.inf, np.float32)
        logits[97:97 + letters] = chain[letters if last is None else last - 97]
        return logits

    counts = np.zeros((letters,) * 3)
    accepted = 0
    draws = 6000
    for seed in range(draws):
        answer = choice(vocab, 1.0, seed=seed)
        tokens: list[int] = []
        while len(tokens) < 3:
            draft = [97 + int(np.argmax(chain[letters if not tokens else tokens[-1] - 97])), 97 + seed % letters]
            lasts = [tokens[-1] if tokens else None, *draft]
            taken = answer.take(np.stack([row(last) for last in lasts]), draft)
            tokens += taken.tokens
            accepted += taken.accepted
        first, second, third = (token - 97 for token in tokens[:3])
        counts[first, second, third] += 1
    chances = np.exp(chain[letters][:, None, None] + chain[:letters, :, None] + chain[None, :letters, :])
    expected = draws * chances / chances.sum()
    likely = expected >= 5
    statistic = float((((counts - expected) ** 2) / expected)[likely].sum())
    # 99.9 % of chi-square with k degrees of freedom lie below k + 3.1 sqrt(2 k) + 6.
    freedom = int(likely.sum()) - 1
    assert statistic < freedom + 3.1 * math.sqrt(2 * freedom) + 6
    assert accepted > draws / 4
