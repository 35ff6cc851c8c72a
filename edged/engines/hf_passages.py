"""Texts and pairs as tokens, by the tokenizer of a Hugging Face folder; its post-processor puts the special tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from edged.engines.base import Passage
from edged.errors import LoadFailed


class HfPassages:
    """Thread-safe. lower_case: sentence-transformers' `do_lower_case`, before the tokenizer."""

    def __init__(self, folder: Path, *, lower_case: bool = False) -> None:
        file = folder / "tokenizer.json"
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(file))
        except Exception as error:
            raise LoadFailed(f"{file.name} is missing or no tokenizer: {error}") from error
        # Many files of this kind carry those of their training: an input would be cut to fit, in silence.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._lower_case = lower_case
        self.size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)

    def passage(self, text: str) -> Passage:
        return Passage(self._tokenizer.encode(self._cased(text)).ids)

    def pair(self, query: str, document: str) -> Passage:
        encoding = self._tokenizer.encode(self._cased(query), self._cased(document))
        return Passage(encoding.ids, encoding.type_ids)

    def pad(self) -> int:
        """A token for what is masked; any will do where the tokenizer has none."""
        padding = self._tokenizer.token_to_id("[PAD]")
        found: int | None = padding if padding is not None else self._tokenizer.token_to_id("<pad>")
        return 0 if found is None else found

    def _cased(self, text: str) -> str:
        return text.lower() if self._lower_case else text
