"""Constraints to grammars that are enforced token by token. llguidance does the work and is imported here only.

A grammar is compiled beside the step loop, within limits that keep a hostile one to seconds and megabytes, and kept by
its content. What cannot be enforced is refused: nothing here is best effort.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.gbnf_to_lark import gbnf_to_lark

from edged.engines.base import Vocab
from edged.errors import InvalidRequest, UnsupportedParameter
from edged.types import Constraint, Gbnf, JsonObject, JsonSchema, Lark, Regex
from edged.worker import schema
from edged.worker.matcher import Free, Matcher, Wear

#: Of one grammar or schema as text.
MAX_TEXT_BYTES = 256 << 10
#: Compiled grammars kept for the next request with the same.
CACHED = 8
#: A grammar that has made so many masks is compiled anew for the next request, which takes milliseconds: llguidance
#: keeps each state that a regular expression was ever in, and a hostile one fills a hundred megabytes with them.
WORN_MASKS = 300
#: Brackets of a GBNF within each other: its converter recurses.
MAX_GBNF_DEPTH = 50

#: Fuel is llguidance's own measure of work. Each limit ends in an error, of the grammar or of the one request.
_LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000, step_lexer_fuel=100_000, step_max_items=20_000, max_items_in_row=2_000,
    max_lexer_states=12_000, max_grammar_size=200_000, verbose_errors=False,
)


class Compiled:
    """A grammar ready for use. `matcher` is called by one thread at a time."""

    def __init__(self, vocab: Vocab, tokens: _Tokens, prototype: LLMatcher | None, free: Free | None) -> None:
        self._vocab = vocab
        self._tokens = tokens
        self._prototype = prototype
        self._free = free
        self._wear = Wear()

    @property
    def worn(self) -> bool:
        return self._wear.masks > WORN_MASKS

    def matcher(self) -> Matcher:
        """A fresh one, for one choice."""
        grammar = None if self._prototype is None else self._prototype.deep_copy()
        return Matcher(grammar, self._vocab, self._free, self._tokens, self._wear)


class Constraints:
    """Of one model. Thread-safe."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab
        self._lock = threading.Lock()  # guards the cache, and the making of the tokenizer
        self._cache: OrderedDict[tuple[object, ...], Compiled] = OrderedDict()

    def compile(
        self, constraint: Constraint | str | None, *, after: str | None = None, optional: bool = False,
        budget: int | None = None,
    ) -> Compiled:
        """constraint: what an answer must be. A plain string is a grammar in llguidance's Lark, in which `%json {…}` is
        a schema under the same rules as that of JsonSchema. None: anything, for the sake of `budget`.

        after: the text that ends free text, such as thinking, after which the constraint begins; the name of a control
        token (`</think>`) where it is one. optional: the answer may end without it, as one that calls no tool does;
        else no end comes before it. budget: tokens of free text at most, after which `after` itself is forced.

        Raises InvalidRequest, without `param`, that says which keyword or which part cannot be enforced.
        """
        key = (constraint, after, optional, budget)
        with self._lock:
            for worn in [other for other, compiled in self._cache.items() if compiled.worn]:
                del self._cache[worn]
            if (known := self._cache.get(key)) is not None:
                self._cache.move_to_end(key)
                return known
        prototype = None if constraint is None else self._prototype(constraint)
        compiled = Compiled(self._vocab, self._tokens, prototype, self._free(after, optional, budget))
        with self._lock:
            self._cache[key] = compiled
            while len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        return compiled

    def _free(self, after: str | None, optional: bool, budget: int | None) -> Free | None:
        if after is None:
            return None
        tokens = self._vocab.tokenize(after, special=True, bos=False)
        if b"".join(map(self._vocab.written, tokens)) != after.encode():  # of a tokenizer that puts a space first
            tokens = self._tokens(after.encode())
        return Free(after.encode(), tokens, optional, budget)

    def _prototype(self, constraint: Constraint | str) -> LLMatcher:
        kind, text, write = _read(constraint)
        if len(text.encode()) > MAX_TEXT_BYTES:
            raise InvalidRequest(f"The {kind} has more than {MAX_TEXT_BYTES >> 10} KiB; make it smaller.")
        prototype = LLMatcher(self._tokenizer, write(text), log_level=0, limits=_LIMITS)
        if not prototype.is_error():
            # The first mask shows at once what is too complex, and what no text satisfies.
            prototype.compute_bitmask()
        if prototype.is_error():
            raise InvalidRequest(f"The {kind} cannot be enforced: {_reason(prototype.get_error())}")
        return prototype

    @property
    def _tokens(self) -> _Tokens:
        with self._lock:
            return self._read_tokens

    @property
    def _tokenizer(self) -> LLTokenizer:
        with self._lock:
            return self._made_tokenizer

    @cached_property
    def _read_tokens(self) -> _Tokens:
        return _Tokens(self._vocab)

    @cached_property
    def _made_tokenizer(self) -> LLTokenizer:
        """Made when the first constraint comes. Holds the interpreter: steps wait for it, about a second with 262,144
        tokens and a fifth of that with 49,152. Workers that are never asked for a format do without."""
        if not self._vocab.end:
            raise UnsupportedParameter("This model has no token that ends an answer, so no format can be enforced.")
        tokens = TokenizerWrapper(self._read_tokens)
        return LLTokenizer(tokens, n_vocab=self._vocab.size, eos_token=sorted(self._vocab.end))


class _Tokens:
    """The vocabulary as llguidance's TokenizerWrapper reads it. Control tokens have names and no text: a grammar can
    name them (`<|call|>`), and no text of it matches them."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab
        pieces = [vocab.piece(token) for token in range(vocab.size)]
        # What ends an answer is no text of it, whatever its piece.
        self.special_token_ids = [
            token for token, piece in enumerate(pieces) if (not piece and vocab.written(token)) or token in vocab.end
        ]
        for token in self.special_token_ids:
            pieces[token] = vocab.written(token)
        self.eos_token_id = min(vocab.end, default=0)
        self.bos_token_id = vocab.bos
        self.tokens = pieces
        self._greedy: dict[bytes, int] | None = None

    def __call__(self, text: bytes) -> list[int]:
        """As the model's own tokenizer cuts it; the pieces joined are `text` exactly."""
        plain = text.decode(errors="ignore")
        tokens = self._vocab.tokenize(plain, special=False, bos=False)
        if self._joined(tokens) == text:
            return tokens
        # Some tokenizers put a space before a text, and none of them after a line's end.
        tokens = self._vocab.tokenize("\n" + plain, special=False, bos=False)
        for count in (1, 2):
            if self._joined(tokens[:count]).lstrip(b" ") == b"\n" and self._joined(tokens[count:]) == text:
                return tokens[count:]
        return self._longest(text)

    def _joined(self, tokens: list[int]) -> bytes:
        return b"".join(map(self._vocab.piece, tokens))

    def _longest(self, text: bytes) -> list[int]:
        """The longest token first. [] where bytes are left that no token has: nothing is then forced."""
        if self._greedy is None:
            names = set(self.special_token_ids)
            self._greedy = {piece: token for token, piece in enumerate(self.tokens) if piece and token not in names}
            self._longest_piece = max(map(len, self._greedy))
        tokens, at = [], 0
        while at < len(text):
            for end in range(min(len(text), at + self._longest_piece), at, -1):
                if (token := self._greedy.get(text[at:end])) is not None:
                    break
            else:
                return []
            tokens.append(token)
            at = end
        return tokens


def _json(text: str) -> str:
    return LLMatcher.grammar_from_json_schema(schema.enforceable(text))


def _lark(text: str) -> str:
    if re.search(r"\[[^\]\n]*\btemperature\s*=", text):
        raise InvalidRequest("The Lark grammar sets a `temperature`, which is not served; give the request's own.")
    return LLMatcher.grammar_from_lark(schema.enforceable_in_lark(text))


def _gbnf(text: str) -> str:
    if _depth(text) > MAX_GBNF_DEPTH:
        raise InvalidRequest(f"The GBNF grammar has brackets deeper than {MAX_GBNF_DEPTH}; use rules instead.")
    try:
        return LLMatcher.grammar_from_lark(gbnf_to_lark(_without_codes(text)))
    except Exception as error:  # an error class of its own, plain Exceptions, and IndexError where a text ends early
        raise InvalidRequest(f"The GBNF grammar cannot be read: {_short(str(error))}") from None


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    return deepest


def _without_codes(text: str) -> str:
    """Characters themselves in place of their codes, which the converter does not write as Lark reads them."""
    def character(match: re.Match[str]) -> str:
        code = int(match[0][2:], 16)
        plain = chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else ""
        if not plain.isprintable() or plain in '\\"[]^-/':
            return match[0]
        return plain

    return re.sub(r"(?<!\\)(?:\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\U[0-9a-fA-F]{8})", character, text)


def _read(constraint: Constraint | str) -> tuple[str, str, Callable[[str], str]]:
    """What to call it, its text, and how that becomes a grammar of llguidance."""
    match constraint:
        case str():
            return "Lark grammar", constraint, _lark
        case JsonObject():
            return "JSON object", '{"type":"object"}', _json
        case JsonSchema(schema=text):
            return "JSON schema", text, _json
        case Regex(pattern=text):
            return "regular expression", text, LLMatcher.grammar_from_regex
        case Lark(grammar=text):
            return "Lark grammar", text, _lark
        case Gbnf(grammar=text):
            return "GBNF grammar", text, _gbnf


def _reason(message: str) -> str:
    """llguidance's own, without its state and its words for a program."""
    text = re.sub(r"\n?<(state>.*|non-verbose/>)", "", message, flags=re.DOTALL).strip()
    if text.startswith("NoExtension") or "Regex is empty" in text:
        return "no text satisfies it."
    if text.startswith("oneOf constraints"):
        return "`oneOf` is enforced only where its schemas evidently exclude each other; use `anyOf`."
    if text.startswith("Schema intersection"):
        text = f"`allOf` or `$ref` with other keywords is too much to put together: {text}"
    return _short(f"`pattern`: {text}" if text.startswith(("regex parse error", "lookarounds")) else text)


def _short(text: str) -> str:
    lines = [line if len(line) <= 100 else f"{line[:60]} … {line[-30:]}" for line in text.splitlines()[:8]]
    return "\n".join(lines)
