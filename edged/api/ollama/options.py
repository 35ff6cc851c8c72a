"""Ollama's `options`: what a Modelfile may say, sent with a request.

Sampling goes by edged's own names; what only tells llama.cpp how to run cannot change an answer and is inert; what
would change it and is not served here is refused, unless it has the value at which it does nothing.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from edged.api.fields import (
    MAX_TOKENS,
    SAMPLING,
    Check,
    Table,
    Unknown,
    accept,
    boolean,
    inert,
    integer,
    later,
    number,
    object_schema,
    schema_of,
    served,
    stop,
    takes,
    wrong,
)
from edged.errors import UnsupportedParameter
from edged.types import SamplingParams

_INT32 = 2**31 - 1


@takes({"type": "integer", "minimum": -2, "maximum": MAX_TOKENS, "not": {"const": 0}})
def _num_predict(value: Any, path: str) -> int | None:
    """-1 and -2: to the end of the context; None."""
    if isinstance(value, bool) or not isinstance(value, int) or value == 0 or not -2 <= value <= MAX_TOKENS:
        raise wrong(path, f"a whole number from 1 to {MAX_TOKENS}, or -1 or -2 for as many as the context holds")
    return value if value > 0 else None


_any_seed = SAMPLING["seed"].check
assert _any_seed is not None


@takes(schema_of(_any_seed))
def _seed(value: Any, path: str) -> int | None:
    """-1: another one each time; None."""
    assert _any_seed is not None
    seed: int = _any_seed(value, path)
    return None if seed == -1 else seed


_any_top_k = integer(-_INT32, _INT32)


@takes(schema_of(_any_top_k))
def _top_k(value: Any, path: str) -> int:
    """Negative: off, as llama.cpp has it."""
    at_least: int = _any_top_k(value, path)
    return max(0, at_least)


#: Ollama's name, edged's name.
_RENAMED = {"repeat_penalty": "repetition_penalty"}

TABLE: Table = {
    "temperature": SAMPLING["temperature"],
    "top_k": served(_top_k),
    "top_p": SAMPLING["top_p"],
    "min_p": SAMPLING["min_p"],
    "typical_p": SAMPLING["typical_p"],
    "repeat_penalty": SAMPLING["repetition_penalty"],
    "presence_penalty": SAMPLING["presence_penalty"],
    "frequency_penalty": SAMPLING["frequency_penalty"],
    "repeat_last_n": served(integer(-1, _INT32)),
    "seed": served(_seed),
    "stop": served(stop),
    "num_predict": served(_num_predict),
    "num_ctx": served(integer(1, _INT32)),
    # How llama.cpp runs, never what it answers.
    "num_gpu": inert(integer(-1, _INT32)),
    "main_gpu": inert(integer(-1, _INT32)),
    "num_thread": inert(integer(0, _INT32)),
    "num_batch": inert(integer(1, _INT32)),
    "numa": inert(boolean),
    "low_vram": inert(boolean),
    "use_mmap": inert(boolean),
    "use_mlock": inert(boolean),
    "logits_all": inert(boolean),
    # What is kept when a prompt is cut; none is cut here.
    "num_keep": inert(integer(-1, _INT32)),
    # Of a mirostat that is off.
    "mirostat_tau": inert(number(0, 1000)),
    "mirostat_eta": inert(number(0, 1000)),
    "mirostat": later(0, instead="Leave it out, or send 0; temperature, top_p and min_p are served."),
    "tfs_z": later(1, 1.0, instead="Leave it out, or send 1; min_p and typical_p are served."),
    "penalize_newline": later(True, instead="Leave it out, or send true: penalties here hold for every token."),
    "f16_kv": later(True, instead="Leave it out: the engine chooses the precision of its cache."),
    "vocab_only": later(False),
    "embedding_only": later(False),
}

_EMBEDDING: Table = {
    name: field if name == "num_ctx" else inert(lambda value, path: value) for name, field in TABLE.items()}


class Options(Struct, frozen=True):
    """max_tokens None: to the end of the context. context: the most tokens that prompt and answer may have together,
    None for the model's own. ignored: names for the header `edged-ignored`."""

    sampling: SamplingParams = SamplingParams()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    context: int | None = None
    ignored: tuple[str, ...] = ()


def options(unknown: Unknown) -> Check:
    @takes(object_schema(TABLE))
    def check(value: Any, path: str) -> Options:
        if not isinstance(value, dict):
            raise wrong(path, "an object")
        said, ignored = accept(TABLE, value, unknown=unknown, path=path)
        named = {_RENAMED.get(name, name): item for name, item in said.items()}
        sampling = SamplingParams(**{name: named[name] for name in SAMPLING if name in named})
        return Options(
            sampling=_over_window(sampling, said.get("repeat_last_n"), f"{path}.repeat_last_n"),
            max_tokens=said.get("num_predict"), stop=said.get("stop", ()), context=said.get("num_ctx"),
            ignored=tuple(ignored),
        )

    return check


def embedding_options(unknown: Unknown) -> Check:
    """Of them only `num_ctx` has a meaning for vectors; of the others it does not matter what they say."""

    @takes(object_schema(_EMBEDDING))
    def check(value: Any, path: str) -> Options:
        if not isinstance(value, dict):
            raise wrong(path, "an object")
        said, ignored = accept(_EMBEDDING, value, unknown=unknown, path=path)
        return Options(context=said.get("num_ctx"), ignored=tuple(ignored))

    return check


def _over_window(sampling: SamplingParams, last_n: int | None, path: str) -> SamplingParams:
    """Penalties here look at the whole prompt and answer, which is -1. 0 turns them off."""
    if last_n is None or last_n == -1:
        return sampling
    if last_n == 0:
        return replace(sampling, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0)
    neutral = (sampling.repetition_penalty == 1.0 and not sampling.presence_penalty and not sampling.frequency_penalty)
    if not neutral:
        raise UnsupportedParameter(
            f"`{path}` is {last_n}, and penalties here look at the whole prompt and answer. Send -1, which says so, 0 "
            "to have none, or `repeat_penalty` 1.", param=path,
        )
    return sampling
