"""By which of llama.cpp's rules a tokenizer splits text before its merges (`tokenizer.ggml.pre`).

llama.cpp has the rules in its code, by name, and its own converter knows a tokenizer by a hash of what it does to one
text, so it refuses any that it has not seen. Here llama.cpp tokenizes a text that tells rules apart under each of them,
and one that does exactly what the tokenizer does is taken. That also proves the vocabulary that was written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import gguf

from converters.gguf_vocab import Vocabulary, splits
from converters.llama_child import Tokenize, Tokenized
from converters.llama_process import run
from edged.errors import InvalidRequest

#: One of each group of rules that do the same. A rule in the first list takes a word that is a token as it is, without
#: its merges.
_WHOLE_WORDS = ("llama-bpe", "tekken", "glm4", "minicpm5", "youtu", "granite-embed-multi-97m")
_MERGED = (
    "gpt-2", "smollm", "qwen2", "dbrx", "qwen35", "gpt-4o", "deepseek-llm", "deepseek-v3", "deepseek-coder", "falcon",
    "stablelm2", "seed-coder", "bailingmoe", "ufakzeka", "exaone-moe", "tiny_aya", "jais-2", "viking", "poro-chat",
    "superbpe", "default",
)

#: Words, contractions, numbers, spaces, lines, code, punctuation and scripts, as rules differ in them. All of it is in
#: Unicode's composed form: some tokenizers compose, llama.cpp never does.
PROBES = (
    "Hello world! It's the 3rd of 1,234,567 tests; we'll see, WE'LL see what they're at (or not).",
    "    def sum_of(numbers: list[int]) -> int:\n        return sum(numbers)  # 0x1F == 31\n\n\n"
    "\tif x>=10:\r\n\t\tpass",
    "12 345 6789 0000000 3.14159e-10 v1.2.3 2024-02-29T23:59:59Z",
    "a list:\n\n1. one\n\n2. two\n\n\n10. ten; x  11   222  3\t\t4 \n 5",
    " leading,  double   triple    and trailing   ",
    "Žluťoučký kůň, façade, ÀÉÎ, straße, naïve — “quoted” … ‘so’",
    "Привет, мир! Γειά σου Κόσμε. שלום עולם مرحبا بالعالم",
    "你好，世界！今天是2024年。こんにちは世界。안녕하세요 세계",
    "हिन्दी में लिखा है। ภาษาไทย",
    "🙂🚀 👩‍💻 ✅ ∑x² ≤ ∞ a/b/c http://example.com/?q=1&r=2 user@example.com",
    "CamelCaseWords and snake_case_words, ALLCAPS iPhone McDonald I'M DON'T'S",
    "!!! ??? ... ---- ==== ~~~ $$$ @#%^&*() [a]{b}<c>\\n\\t `code` ''quoted''",
)


def find_rule(folder: Path, vocabulary: Vocabulary, begin: Callable[[Path, str], gguf.GGUFWriter], work: Path) -> str:
    """begin: a writer with all keys set, of a file for a rule. work: where a file without weights is put for a moment.
    Raises InvalidRequest where llama.cpp tokenizes otherwise under every rule."""
    if vocabulary.kind == "llama":
        rules: Sequence[str] = ("default",)
    else:
        rules = candidates(vocabulary.patterns, digits=vocabulary.digits, whole_words=vocabulary.whole_words)
    wanted = splits(folder, list(PROBES))
    file = work / "vocabulary.gguf"
    try:
        writer = begin(file, rules[0])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        task = Tokenize(file=str(file), rules=list(rules), texts=list(PROBES))
        answer = run(task, "reading the tokenizer that was written for it")
    finally:
        file.unlink(missing_ok=True)
    assert isinstance(answer, Tokenized)
    for rule in rules:
        if answer.tokens[rule] == wanted:
            return rule
    raise InvalidRequest(
        f"llama.cpp has no rule that splits text as this tokenizer does{_nearest(answer.tokens, wanted)}; convert to "
        "ONNX instead")


def candidates(patterns: Sequence[str], *, digits: bool, whole_words: bool) -> list[str]:
    """All rules, the likeliest first: a small vocabulary may not tell some of them apart on any text of a few lines,
    and then what the tokenizer says of itself decides. See `Vocabulary` for what is given."""
    pattern = max(patterns, key=len, default="")
    cased, marks, triples = r"\p{Lu}" in pattern, r"\p{M}" in pattern, r"\p{N}{1,3}" in pattern
    if cased:
        likely = "gpt-4o" if triples else "tekken"
    elif pattern:
        likely = ("llama-bpe" if whole_words else "dbrx") if triples else "qwen35" if marks else "qwen2"
    else:
        likely = "smollm" if digits else "gpt-2"
    ordered = (*_WHOLE_WORDS, *_MERGED) if whole_words else (*_MERGED, *_WHOLE_WORDS)
    return [likely, *(rule for rule in ordered if rule != likely)]


def _nearest(found: dict[str, list[list[int]] | None], wanted: list[list[int]]) -> str:
    """The rule that differs on the fewest texts, and the first of them."""
    wrong = {
        rule: [text for text, one, right in zip(PROBES, tokens, wanted, strict=True) if one != right]
        for rule, tokens in found.items() if tokens is not None
    }
    if not wrong:
        return " (it refused the vocabulary)"
    rule, texts = min(wrong.items(), key=lambda item: len(item[1]))
    return f" (the nearest is {rule}, which differs on {len(texts)} of {len(PROBES)} texts, as on {texts[0][:40]!r})"
