from __future__ import annotations

import json

import jsonschema
import pytest

from bench.client import Answer, BenchError, Burst
from bench.proof.answers import KINDS, SCHEMAS, TOOL_SCHEMA, begun, overlap, tokens
from bench.proof.disturbance import gaps
from bench.proof.scene import FULL, PROMPTS_A_ROUND, QUICK, Scene
from bench.proof.scenes import PLACES, SCENES, digest
from bench.proof.sides import CONTEXT, ROWS

pytestmark = pytest.mark.unit


def test_the_scenes_are_still_the_frozen_ones() -> None:
    assert (digest(FULL), digest(QUICK)) == ("4c88bedce17c", "be5bb55aa6bc")


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_no_round_of_a_scene_uses_the_prompts_of_another(scene: Scene) -> None:
    numbers = [scene.ask(FULL, turn, PLACES[scene.name]).number for turn in range(20)]
    others = [each.ask(FULL, turn, place).number for each, place in zip(SCENES, PLACES.values(), strict=True)
              for turn in range(20) if each is not scene]
    assert all(abs(one - other) >= PROMPTS_A_ROUND for one in numbers for other in others)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_what_is_asked_in_one_round_is_not_asked_in_the_next(scene: Scene) -> None:
    first, second = (json.dumps(list(scene.bodies(scene.ask(FULL, turn, PLACES[scene.name])))) for turn in (0, 1))
    assert first == second if scene.name in ("bandwidth", "daemon") else first != second


def test_everything_fits_a_row_and_there_is_a_row_for_each_stream() -> None:
    assert FULL.long_prompt + 64 <= CONTEXT
    assert 160 + FULL.turns * (FULL.turn_words + FULL.turn_answer + 16) <= CONTEXT
    assert max(FULL.streams, FULL.clients, FULL.agents + 1) <= ROWS


def test_answers_under_the_schemas_cannot_be_longer_than_they_may_be() -> None:
    for schema in (*SCHEMAS.values(), TOOL_SCHEMA):
        jsonschema.Draft202012Validator.check_schema(schema)
        assert "additionalProperties" in schema
        assert '"string"' not in json.dumps(schema).replace('"string", "maxLength"', "").replace('"string", "enum"', "")


@pytest.mark.parametrize("number", [0, 7, 123_456])
@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_holds_the_passage_once_and_ends_with_its_beginning(kind: str, number: int) -> None:
    prompt, rest = begun(kind, number)
    passage = KINDS[kind](number)[1]
    given = passage.removesuffix(rest).strip()
    assert prompt.count(passage) == 1
    assert prompt.endswith(given)
    assert overlap(prompt, rest) == 1.0
    assert 10 <= tokens(rest) <= 130


def test_overlap_is_the_share_of_runs_of_four_words_that_the_prompt_has() -> None:
    assert overlap("a b c d e f", "b c d e") == 1.0
    assert overlap("a b c d e f", "a b c d x y z q") == pytest.approx(1 / 5)
    assert overlap("a b c d", "a b") == 0.0


def answer(*times_s: float, sent_s: float = 0.0) -> Answer:
    return Answer(sent_s=sent_s, first_s=times_s[0], last_s=times_s[-1], events=len(times_s), prompt_tokens=8,
                  cached_tokens=0, completion_tokens=len(times_s), text="", times_s=times_s)


def test_the_gap_is_the_longest_after_the_long_prompt_less_a_step() -> None:
    late = answer(1.5, sent_s=0.35)
    found = gaps(Burst([answer(0.1, 0.2, 0.3, 0.9, 1.0), answer(0.1, 0.2, 0.3, 0.7, 0.8), late], 2, 0))
    assert found["step-ms"] == pytest.approx(100)
    assert found["gap-ms"] == pytest.approx(500)
    assert found["long-first-ms"] == pytest.approx(1150)


def test_streams_that_ended_before_the_long_prompt_say_nothing_of_gaps() -> None:
    with pytest.raises(BenchError, match="had ended"):
        gaps(Burst([answer(0.1, 0.2), answer(1.5, sent_s=0.35)], 2, 0))
