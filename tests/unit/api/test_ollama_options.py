"""Ollama's options: each is honoured, inert by its meaning, or refused by its name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.api.ollama.options import TABLE, Options, options
from edged.errors import InvalidRequest
from edged.types import SamplingParams

pytestmark = pytest.mark.unit


def taken(**said: Any) -> Options:
    found: Options = options("refuse")(said, "options")
    return found


def refusal(**said: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        taken(**said)
    return caught.value


def test_sampling_goes_by_edgeds_names() -> None:
    said = taken(temperature=0.5, top_k=40, top_p=0.9, min_p=0.1, typical_p=0.7, repeat_penalty=1.1,
                 presence_penalty=1.5, frequency_penalty=-1, seed=42, stop=["\n", "user:"])
    assert said == Options(
        sampling=SamplingParams(temperature=0.5, top_k=40, top_p=0.9, min_p=0.1, typical_p=0.7, repetition_penalty=1.1,
                                presence_penalty=1.5, frequency_penalty=-1.0, seed=42),
        stop=("\n", "user:"),
    )


@pytest.mark.parametrize(("said", "tokens"), [(1, 1), (128, 128), (-1, None), (-2, None)])
def test_num_predict_counts_tokens_and_negative_is_what_the_context_holds(said: int, tokens: int | None) -> None:
    assert taken(num_predict=said).max_tokens == tokens


@pytest.mark.parametrize("said", [0, -3, True, 1.5, "8", 2**31])
def test_num_predict_that_means_nothing_is_refused(said: Any) -> None:
    assert refusal(num_predict=said).param == "options.num_predict"


def test_a_seed_of_minus_one_is_another_each_time_and_a_negative_top_k_is_off() -> None:
    assert taken(seed=-1, top_k=-1).sampling == SamplingParams(seed=None, top_k=0)


def test_num_ctx_bounds_prompt_and_answer() -> None:
    assert taken(num_ctx=2048).context == 2048
    assert refusal(num_ctx=0).param == "options.num_ctx"


@pytest.mark.parametrize("said", [
    {"num_gpu": 99}, {"num_gpu": -1}, {"num_thread": 4}, {"num_batch": 512}, {"use_mmap": True}, {"use_mlock": False},
    {"numa": False}, {"low_vram": True}, {"main_gpu": 0}, {"num_keep": 24}, {"mirostat_tau": 5.0},
    {"mirostat_eta": 0.1}, {"logits_all": False},
])
def test_what_only_tells_an_engine_how_to_run_is_inert_and_told(said: dict[str, Any]) -> None:
    (name,) = said
    assert taken(**said) == Options(ignored=(f"options.{name}",))


@pytest.mark.parametrize(("name", "neutral", "other"), [
    ("mirostat", 0, 1), ("tfs_z", 1.0, 0.95), ("tfs_z", 1, 2), ("penalize_newline", True, False),
    ("vocab_only", False, True), ("embedding_only", False, True), ("f16_kv", True, False),
])
def test_what_would_change_the_answer_is_refused_unless_it_does_nothing(name: str, neutral: Any, other: Any) -> None:
    assert taken(**{name: neutral}) == Options()
    assert refusal(**{name: other}).param == f"options.{name}"


def test_penalties_look_at_everything_or_at_nothing() -> None:
    assert taken(repeat_last_n=-1, repeat_penalty=1.2).sampling == SamplingParams(repetition_penalty=1.2)
    assert taken(repeat_last_n=0, repeat_penalty=1.2).sampling == SamplingParams(
        repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0)
    assert taken(repeat_last_n=64, repeat_penalty=1.0).sampling == SamplingParams(repetition_penalty=1.0)
    for said in ({}, {"repeat_penalty": 1.1}, {"repeat_penalty": 1.0, "presence_penalty": 0.5}):
        assert refusal(repeat_last_n=64, **said).param == "options.repeat_last_n"


def test_an_unknown_option_is_refused_by_name_or_told() -> None:
    error = refusal(temprature=1)
    assert error.param == "options.temprature"
    assert "`temperature`" in error.message
    assert options("report")({"mmproj": 1}, "options").ignored == ("options.mmproj",)


def test_every_option_of_the_official_client_is_known() -> None:
    ollama = pytest.importorskip("ollama")
    assert set(ollama.Options.model_fields) - set(TABLE) == set()


@given(st.dictionaries(st.sampled_from([*TABLE, "nonsense"]), st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.lists(st.text(max_size=3)))))
def test_whatever_is_said_is_taken_or_refused_by_name(said: dict[str, Any]) -> None:
    refused: str | None = "options."
    try:
        taken(**said)
    except InvalidRequest as error:
        refused = error.param
    assert refused is not None
    assert refused.startswith("options.")
