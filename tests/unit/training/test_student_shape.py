"""Sizes of a student: what cannot be served in every form is refused before anything is computed."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.recipe import Architecture
from training.student import shape
from training.student.match import layers
from training.weigh import Shape

pytestmark = pytest.mark.unit


def test_the_default_can_be_quantized_in_every_way() -> None:
    assert shape.mistake(Architecture()) is None
    assert Architecture().hidden % shape.K_QUANT_BLOCK == 0
    assert Architecture().intermediate % shape.K_QUANT_BLOCK == 0


@pytest.mark.parametrize(("wrong", "key", "right"), [
    ({"hidden": 250}, "hidden", "take 256"),
    ({"hidden": 256, "heads": 6, "kv_heads": 3}, "hidden", "take 192"),
    ({"heads": 4, "kv_heads": 3}, "kv_heads", "take 2"),
    ({"intermediate": 700}, "intermediate", "take 704"),
    ({"vocabulary": 200}, "vocabulary", "take 300"),
])
def test_a_size_that_cannot_be_is_named_with_one_that_can(wrong: dict[str, int], key: str, right: str) -> None:
    found = shape.mistake(msgspec.structs.replace(Architecture(), **wrong))
    assert found is not None
    assert found[0] == key
    assert right in found[1]


@given(st.builds(
    Architecture, hidden=st.integers(1, 700), heads=st.integers(1, 16), kv_heads=st.integers(1, 16),
    intermediate=st.integers(1, 2000), vocabulary=st.integers(1, 5000)))
def test_after_doing_what_each_message_says_nothing_is_wrong(said: Architecture) -> None:
    for _ in range(4):
        found = shape.mistake(said)
        if found is None:
            break
        key, message = found
        number = int(message.partition("take ")[2].split(",")[0].split(" ")[0])
        said = msgspec.structs.replace(said, **{key: number})
    assert shape.mistake(said) is None


def test_the_parameters_of_a_known_model_are_counted() -> None:
    """SmolLM2-135M: 134,515,008 by its files."""
    smollm2 = Shape(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True)
    assert smollm2.parameters() == 134_515_008
    assert smollm2.kv_bytes_per_token(2) == 23_040


def test_the_described_llama_is_the_one_that_is_weighed() -> None:
    said = shape.llama(Architecture(), 1000)
    known = msgspec.convert(said, Shape)
    assert known.parameters() == 1000 * 256 + 256 + 4 * (2 * 256 * (256 + 128) + 3 * 256 * 768 + 2 * 256)


@pytest.mark.parametrize(("student", "teacher", "expected"), [
    (4, 12, [3, 6, 9, 12]), (3, 3, [1, 2, 3]), (2, 30, [15, 30]), (4, 2, [1, 1, 2, 2]), (5, 7, [1, 3, 4, 6, 7]),
])
def test_layers_are_spread_evenly_and_the_last_is_on_the_last(
    student: int, teacher: int, expected: list[int],
) -> None:
    assert layers(student, teacher) == expected
