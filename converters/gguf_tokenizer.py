"""The tokenizer that transformers makes out of a GGUF, made to split text as the GGUF says.

A GGUF names the rule by which text is split before merges (`tokenizer.ggml.pre`); transformers takes the rule of the
architecture instead, so that numbers and blank lines may become other tokens than the model was trained on. llama.cpp
tokenizes texts that tell rules apart, and the first of the usual rules that does the same is taken.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from converters.gguf_split_rule import PROBES
from converters.llama_child import Tokenize, Tokenized
from converters.llama_process import run

#: White space before numbers too: a rule that cuts out single digits leaves it whole.
TEXTS = (*PROBES, "a list:\n\n1. one\n\n2. two\n\n\n10. ten", "x  11   222  3\t\t4 \n 5")

_NUMBERS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _sequence(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(parts)}


def _split(pattern: str) -> dict[str, Any]:
    return _sequence({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                     _byte_level(False))


#: Pre-tokenizers as tokenizer.json has them, of the families whose GGUFs are most about.
_RULES = (
    _byte_level(True),  # GPT-2
    _sequence({"type": "Digits", "individual_digits": True}, _byte_level(True)),  # SmolLM
    _split(_NUMBERS % "{1,3}"),  # Llama 3
    _split(_NUMBERS % ""),  # Qwen 2
)


def mend(folder: Path, file: Path, rule: str) -> str | None:
    """Change tokenizer.json of `folder` where it does not tokenize as llama.cpp does with the GGUF `file`. rule: the
    one that the GGUF names. Returns what is still different, in words for people; None where nothing is."""
    answer = run(Tokenize(file=str(file), rules=[rule], texts=list(TEXTS)), "reading the tokenizer of the GGUF")
    wanted = answer.tokens[rule] if isinstance(answer, Tokenized) else None
    if wanted is None:
        return f"llama.cpp does not know the tokenizer of {file.name}, so nobody checked the one that was made of it"
    path = folder / "tokenizer.json"
    as_made = path.read_text()
    fewest = len(TEXTS)
    for candidate in _candidates(as_made):
        tokenizer = Tokenizer.from_str(candidate)
        wrong = sum(tokenizer.encode(text, add_special_tokens=False).ids != right
                    for text, right in zip(TEXTS, wanted, strict=True))
        if wrong == 0:
            if candidate != as_made:
                path.write_text(candidate)
            return None
        fewest = min(fewest, wrong)
    return (f"the tokenizer that transformers makes of this GGUF cuts {fewest} of {len(TEXTS)} texts otherwise than "
            "llama.cpp does; converted from its Hugging Face original the model may be better")


def _candidates(as_made: str) -> Iterator[str]:
    yield as_made
    made = json.loads(as_made)
    if made["model"].get("type") != "BPE" or "ByteLevel" not in json.dumps(made["pre_tokenizer"]):
        return
    for ignore_merges in (False, True):
        for rule in _RULES:
            yield json.dumps({**made, "pre_tokenizer": rule,
                              "model": {**made["model"], "ignore_merges": ignore_merges}}, ensure_ascii=False)
