"""How the tokenizer of a GGUF splits text. llama.cpp is played by a tokenizer with the rule that the GGUF names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from converters import gguf_tokenizer
from converters.gguf_tokenizer import TEXTS, mend
from converters.llama_child import Tokenize, Tokenized

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def as_made() -> str:
    """Merges over numbers, white space and words, under GPT-2's rule."""
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([*TEXTS] * 4, trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return str(tokenizer.to_str())


def under(made: str, rule: dict[str, Any], **model: object) -> Tokenizer:
    said = json.loads(made)
    return Tokenizer.from_str(json.dumps({**said, "pre_tokenizer": rule, "model": {**said["model"], **model}}))


def mended(
    made: str, folder: Path, monkeypatch: pytest.MonkeyPatch, llama: Tokenizer | None,
) -> tuple[Tokenizer, str | None]:
    """The tokenizer afterwards, and what was told. llama: None refuses the rule."""
    (folder / "tokenizer.json").write_text(made)

    def run(task: Tokenize, what: str) -> Tokenized:
        assert task.rules == ["the-rule"]
        return Tokenized({"the-rule": None if llama is None else [
            llama.encode(text, add_special_tokens=False).ids for text in task.texts]})

    monkeypatch.setattr(gguf_tokenizer, "run", run)
    words = mend(folder, folder / "m.gguf", "the-rule")
    return Tokenizer.from_file(str(folder / "tokenizer.json")), words


@pytest.mark.parametrize("number", range(len(gguf_tokenizer._RULES)))
@pytest.mark.parametrize("whole_words", [False, True])
def test_a_tokenizer_gets_the_rule_that_does_as_llama_cpp_does(
    as_made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, whole_words: bool,
) -> None:
    llama = under(as_made, gguf_tokenizer._RULES[number], ignore_merges=whole_words)
    tokenizer, words = mended(as_made, tmp_path, monkeypatch, llama)
    assert words is None
    for text in (*TEXTS, "Another 42 texts,\n\n1234567 of them:  they'll DO."):
        assert tokenizer.encode(text).ids == llama.encode(text).ids


def test_the_rules_do_different_things_to_the_texts(as_made: str) -> None:
    cut = {str([under(as_made, rule).encode(text).ids for text in TEXTS]) for rule in gguf_tokenizer._RULES}
    assert len(cut) == len(gguf_tokenizer._RULES)


def test_a_rule_that_is_none_of_the_usual_ones_is_told_and_nothing_is_changed(
    as_made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    odd = under(as_made, {"type": "Split", "pattern": {"String": "e"}, "behavior": "Removed", "invert": False})
    tokenizer, words = mended(as_made, tmp_path, monkeypatch, odd)
    assert "texts otherwise than llama.cpp does" in (words or "")
    assert json.loads(tokenizer.to_str())["pre_tokenizer"] == json.loads(as_made)["pre_tokenizer"]
    _, words = mended(as_made, tmp_path, monkeypatch, None)
    assert "nobody checked" in (words or "")
