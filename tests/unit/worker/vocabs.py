"""Small vocabularies for tests."""

from __future__ import annotations

from collections.abc import Sequence

from edged.engines.base import Fill


class ByteVocab:
    """256 tokens, one a byte; or the pieces given."""

    bos: int | None = None
    end: frozenset[int] = frozenset()
    special: dict[str, str] = {}  # noqa: RUF012 (the protocol declares it so)
    chat_template: str | None = None
    fill: Fill | None = None

    def __init__(self, pieces: Sequence[bytes] | None = None, *, strips: bool = False,
                 end: frozenset[int] = frozenset()) -> None:
        self._pieces = pieces if pieces is not None else [bytes([byte]) for byte in range(256)]
        self._strips = strips
        self.end = end or self.end
        self.size = len(self._pieces)

    def tokenize(self, text: str, *, special: bool, bos: bool) -> list[int]:
        return list(text.encode())

    def piece(self, token: int) -> bytes:
        return self._pieces[token]

    def written(self, token: int) -> bytes:
        return self._pieces[token]

    def strips_first_space(self) -> bool:
        return self._strips
