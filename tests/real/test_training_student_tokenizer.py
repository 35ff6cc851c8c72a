"""A student's own tokenizer: the same tokens in every engine, for words in a prompt and behind a quote."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from converters.gguf import unquantized
from converters.gguf_split_rule import PROBES
from edged.engines.hf_vocab import HfVocab
from edged.errors import InvalidRequest
from tests.real.test_gguf_families import Llama
from tests.real.tiny_student import COMMANDS, saved, untrained
from training.encode import encoded
from training.examples import Example, Message
from training.models import tokenizer_of
from training.student.teachers import require_same_words
from training.student.tokenizer import train_tokenizer

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def made() -> tuple[Any, Any]:
    return untrained()


@pytest.fixture(scope="module")
def folder(made: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(made, tmp_path_factory.mktemp("student") / "model")


def test_every_engine_cuts_text_as_the_students_own_tokenizer_does(
    made: tuple[Any, Any], folder: Path, tmp_path: Path,
) -> None:
    (tmp_path / "work").mkdir()
    file = unquantized(folder, tmp_path / "out", work=tmp_path / "work", progress=lambda done, note: None)
    llama = Llama(file)
    try:
        onnx = HfVocab(folder, len(made[1]), frozenset())
        for text in (*PROBES, *(each.prompt[0].content for each in COMMANDS), "Xylo-7 \t 19:05"):
            right = made[1](text, add_special_tokens=False)["input_ids"]
            assert llama.vocab.tokenize(text, special=False, bos=False) == right
            assert onnx.tokenize(text, special=False, bos=False) == right
            assert made[1].decode(right) == text
    finally:
        llama.close()


def test_a_word_is_the_same_token_in_the_prompt_and_in_the_answer(made: tuple[Any, Any]) -> None:
    tokenizer = made[1]
    row = encoded(tokenizer, COMMANDS[0], completion_only=True)
    start = next(index for index, label in enumerate(row.labels) if label >= 0)
    room = json.loads(COMMANDS[0].answer.content)["room"].split()[0]  # type: ignore[union-attr]
    (word,) = tokenizer(room, add_special_tokens=False)["input_ids"]
    assert word in row.input_ids[:start]
    assert word in row.labels[start:]
    assert tokenizer.convert_ids_to_tokens(tokenizer("2024", add_special_tokens=False)["input_ids"]) == list("2024")


def test_seldom_words_are_spelled_and_frequent_ones_are_whole() -> None:
    drawn = random.Random(1)
    words = ["".join(drawn.choices("aeioubdfgklmnprst", k=6)) for _ in range(100)]
    examples = [Example(id=str(number), prompt=(Message("user", f"find {words[number % 100]} please"),),
                        answer=Message("assistant", f'{{"find": "{words[number % 100]}"}}')) for number in range(1000)]
    tokenizer = train_tokenizer(examples, 2000)
    counts = {word: len(tokenizer(word, add_special_tokens=False)["input_ids"]) for word in [*words, "find", "please"]}
    assert counts["find"] == counts["please"] == 1
    assert min(counts[word] for word in words) > 1
    assert tokenizer.tokenize('"find": "') == ['"', "find", '":', 'Ġ"']


def test_a_teacher_of_another_vocabulary_is_refused(made: tuple[Any, Any], folder: Path, tiny_hf: Path) -> None:
    require_same_words(made[1], len(made[1]), [folder], tokenizer_of)
    with pytest.raises(InvalidRequest, match="another vocabulary"):
        require_same_words(made[1], len(made[1]), [tiny_hf], tokenizer_of)
