"""The Hugging Face vocabulary, over tokenizers trained on the spot: each kind that models are published with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from edged.engines.base import Fill
from edged.engines.hf_vocab import HfVocab
from edged.errors import LoadFailed
from edged.worker.detokenize import Detokenizer

pytestmark = pytest.mark.unit

SPECIAL = ["<unk>", "<s>", "</s>"]
CORPUS = [
    "The quick brown fox jumps over the lazy dog. The dog sleeps.", "Grüße aus Köln, und übrigens: 語を学ぶ 🙂",
    "def f(x):\n    return x + 1\n", "the model, the tokens, the words and the text of it all",
]


def byte_level() -> Tokenizer:
    """GPT-2, Llama 3, Qwen, SmolLM2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    _train(tokenizer, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    return tokenizer


def llama() -> Tokenizer:
    """Llama 2, Mistral: bytes for what is not in the vocabulary, a space before the text."""
    space = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    return _with_bytes(normalizers.Sequence(space), [decoders.Strip(" ", 1, 0)])


def gemma() -> Tokenizer:
    """The same without the space."""
    return _with_bytes(normalizers.Replace(" ", "▁"), [])


def metaspace(prepend_scheme: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=prepend_scheme)
    _train(tokenizer)
    return tokenizer


def _with_bytes(normalizer: normalizers.Normalizer, last: list[decoders.Decoder]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizer
    # The characters of the corpus alone are known: all others are bytes.
    _train(tokenizer, limit_alphabet=40)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *last])
    parts = json.loads(tokenizer.to_str())
    vocabulary = parts["model"]["vocab"]
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    return Tokenizer.from_str(json.dumps(parts))


def _train(tokenizer: Tokenizer, **said: Any) -> None:
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIAL, show_progress=False, **said)
    tokenizer.train_from_iterator(CORPUS, trainer)
    begin = ("<s>", tokenizer.token_to_id("<s>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[begin])
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": byte_level, "llama": llama, "gemma": gemma,
    "metaspace": lambda: metaspace("always"), "metaspace-never": lambda: metaspace("never"),
}
Kind = tuple[Tokenizer, HfVocab]


def save(folder: Path, tokenizer: Tokenizer, config: object = None, generation: object = None) -> HfVocab:
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    said = config if config is not None else {"bos_token": "<s>", "eos_token": {"content": "</s>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return HfVocab(folder, tokenizer.get_vocab_size() + 10, frozenset())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    folder = tmp_path_factory.mktemp("tokenizers")
    return {name: (tokenizer := make(), save(folder / name, tokenizer)) for name, make in KINDS.items()}


def text_of(vocab: HfVocab, tokens: list[int]) -> str:
    detokenizer = Detokenizer(vocab)
    return "".join(map(detokenizer.push, tokens)) + detokenizer.flush()


#: Metaspace decoders drop every space before a text, not only their own.
some_text = st.text(st.sampled_from("theT Gü語🙂\n.,x(žд"), max_size=25).map(str.strip)


@pytest.mark.parametrize("kind", KINDS)
@given(text=some_text)
def test_the_pieces_are_what_the_tokenizer_decodes(made: dict[str, Kind], kind: str, text: str) -> None:
    tokenizer, vocab = made[kind]
    tokens = vocab.tokenize(text, special=False, bos=True)
    assert text_of(vocab, tokens) == tokenizer.decode(tokens)
    if not kind.startswith("metaspace"):  # which has no bytes for what it does not know
        assert text_of(vocab, tokens) == text


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
def test_any_tokens_are_what_the_tokenizer_decodes(made: dict[str, Kind], kind: str, data: st.DataObject) -> None:
    """An answer is no tokenized text: its tokens come in any order."""
    tokenizer, vocab = made[kind]
    known = [token for token in range(tokenizer.get_vocab_size()) if b"\x80" > vocab.piece(token) > b" "]
    tokens = data.draw(st.lists(st.sampled_from(known), max_size=10))
    assert text_of(vocab, tokens) == tokenizer.decode(tokens)


@pytest.mark.parametrize(("kind", "strips"), [
    ("byte-level", False), ("llama", True), ("gemma", False), ("metaspace", True), ("metaspace-never", False)])
def test_a_space_is_taken_away_where_the_tokenizer_put_one(made: dict[str, Kind], kind: str, strips: bool) -> None:
    assert made[kind][1].strips_first_space() == strips


@pytest.mark.parametrize("kind", KINDS)
def test_one_beginning_token_where_there_is_one_in_the_text_already(made: dict[str, Kind], kind: str) -> None:
    _, vocab = made[kind]
    assert vocab.bos == 1
    assert vocab.tokenize("<s>the", special=True, bos=True)[:2].count(1) == 1
    assert vocab.tokenize("the", special=True, bos=True)[0] == 1
    assert 1 not in vocab.tokenize("the", special=True, bos=False)


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_have_no_text_and_added_words_have_theirs(made: dict[str, Kind], kind: str) -> None:
    tokenizer, vocab = made[kind]
    assert [vocab.piece(token) for token in (0, 1, 2)] == [b"", b"", b""]
    assert [vocab.written(token) for token in (0, 1, 2)] == [b"<unk>", b"<s>", b"</s>"]
    assert vocab.written(tokenizer.token_to_id("<tool>") or 0) == b"<tool>"
    assert vocab.piece(tokenizer.token_to_id("<tool>") or 0) == b"<tool>"
    assert vocab.piece(vocab.size - 1) == b""  # the model's vocabulary is larger than the tokenizer's


@pytest.mark.parametrize("kind", ["byte-level", "llama", "gemma"])
def test_texts_of_special_tokens_may_be_plain_text(made: dict[str, Kind], kind: str) -> None:
    _, vocab = made[kind]
    assert 2 in vocab.tokenize("a</s>", special=True, bos=False)
    plain = vocab.tokenize("a</s>", special=False, bos=False)
    assert 2 not in plain
    assert text_of(vocab, plain) == "a</s>"


def test_a_character_in_bytes_has_a_token_for_each(made: dict[str, Kind]) -> None:
    _, vocab = made["llama"]
    tokens = vocab.tokenize("ж", special=False, bos=False)
    assert b"".join(map(vocab.piece, tokens)).lstrip() == "ж".encode()


def test_no_prompt_is_cut_to_the_length_of_the_training(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.enable_truncation(max_length=4)
    tokenizer.enable_padding(length=64)
    vocab = save(tmp_path / "model", tokenizer)
    text = "the dog and the fox " * 10
    for special in (True, False):
        assert text_of(vocab, vocab.tokenize(text, special=special, bos=False)) == text
        assert len(vocab.tokenize("x", special=special, bos=False)) == 1


@pytest.mark.parametrize(("said", "more"), [(None, set()), (5, {5}), ([5, 6], {5, 6})])
def test_all_tokens_that_end_an_answer_are_found(tmp_path: Path, said: object, more: set[int]) -> None:
    vocab = save(tmp_path / "model", byte_level(), generation={"eos_token_id": said})
    assert vocab.end == {2} | more
    assert vocab.special == {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize(("template", "found"), [
    ("{{ messages }}", "{{ messages }}"), (None, None),
    ([{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}], "yes"),
])
def test_the_chat_template_is_found(tmp_path: Path, template: object, found: str | None) -> None:
    vocab = save(tmp_path / "model", byte_level(), config={"chat_template": template})
    assert vocab.chat_template == found
    (tmp_path / "model" / "chat_template.jinja").write_text("from a file")
    assert HfVocab(tmp_path / "model", 10, frozenset()).chat_template == "from a file"


@pytest.mark.parametrize("content", [None, "{}", "{"])
def test_a_bad_tokenizer_is_refused_by_name(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(LoadFailed, match=r"tokenizer\.json"):
        HfVocab(tmp_path, 10, frozenset())


def test_a_decoder_whose_text_is_not_the_sum_of_its_pieces_is_refused(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(LoadFailed, match="WordPiece"):
        save(tmp_path / "model", tokenizer)


def test_a_bad_config_is_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path / "model", byte_level())
    (tmp_path / "model" / "tokenizer_config.json").write_text("[")
    with pytest.raises(LoadFailed, match=r"tokenizer_config\.json"):
        HfVocab(tmp_path / "model", 10, frozenset())


@pytest.mark.parametrize("names", [
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"), ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"), ("▁<PRE>", "▁<SUF>", "▁<MID>"),
])
def test_the_tokens_that_fill_gaps_are_known_by_their_names(tmp_path: Path, names: tuple[str, str, str]) -> None:
    tokenizer = byte_level()
    tokenizer.add_special_tokens([*reversed(names), "▁<EOT>"])
    vocab = save(tmp_path / "model", tokenizer)
    assert vocab.fill == Fill(*(tokenizer.token_to_id(name) or 0 for name in names))
    assert tokenizer.token_to_id("▁<EOT>") in vocab.end


def test_a_vocabulary_without_all_three_fills_no_gaps(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.add_special_tokens(["<fim_prefix>", "<fim_suffix>", "<EOT>"])
    vocab = save(tmp_path / "model", tokenizer)
    assert vocab.fill is None
    assert tokenizer.token_to_id("<EOT>") not in vocab.end
