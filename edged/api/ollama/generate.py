"""POST /api/generate: a prompt as the next turn of a conversation, or with `raw` and `suffix` as the text it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from edged.api.answering import Call
from edged.api.exchange import Exchange
from edged.api.fields import Table, Unknown, accept, boolean, later, served, text
from edged.api.logprobs import ChatToken
from edged.api.ollama.answer import Ending, Piece, timestamp
from edged.api.ollama.context import Turns, decode, encode
from edged.api.ollama.request import IMAGES_INSTEAD, Presence, call, common, presence
from edged.errors import UnsupportedParameter
from edged.types import ChatPrompt, TextPrompt

_NO_PICTURES = "The models here make text only."
#: What a prompt that is taken as it stands has no place for.
_OF_TURNS = ("system", "context", "think")
Remember = Callable[[str], list[int]]


class GenerateLine(Struct, frozen=True, kw_only=True):
    """The answer, and each line of a stream; what follows `done` is of the last one."""

    model: str
    created_at: str
    response: str
    thinking: str | UnsetType = UNSET
    logprobs: list[ChatToken] | UnsetType = UNSET
    done: bool
    done_reason: str | UnsetType = UNSET
    context: list[int] | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET


def line(model: str, remember: Remember | None, piece: Piece, ending: Ending | None) -> GenerateLine:
    """remember: the answer's text as the context that a later request may send; None where there are no turns."""
    if ending is None:
        return GenerateLine(model=model, created_at=timestamp(), response=piece.text, thinking=piece.thinking or UNSET,
                            logprobs=piece.logprobs or UNSET, done=False)
    return GenerateLine(
        model=model, created_at=timestamp(), response=piece.text, thinking=piece.thinking or UNSET,
        logprobs=piece.logprobs or UNSET, done=True, done_reason=ending.reason,
        context=UNSET if remember is None else remember(ending.text),
        total_duration=ending.total_duration, load_duration=ending.load_duration,
        prompt_eval_count=ending.prompt_eval_count, prompt_eval_duration=ending.prompt_eval_duration,
        eval_count=ending.eval_count, eval_duration=ending.eval_duration,
    )


def present(model: str, reason: str) -> GenerateLine:
    """Loaded or unloaded."""
    return GenerateLine(model=model, created_at=timestamp(), response="", done=True, done_reason=reason)


def fields(unknown: Unknown = "refuse") -> Table:
    return common(unknown) | {
        "prompt": served(text()),
        "suffix": served(text()),
        "system": served(text()),
        "context": served(decode),
        "raw": served(boolean),
        "template": later("", instead="The model's own template is used; `raw` takes a prompt as it stands."),
        "images": later([], instead=IMAGES_INSTEAD),
        "width": later(0, instead=_NO_PICTURES),
        "height": later(0, instead=_NO_PICTURES),
        "steps": later(0, instead=_NO_PICTURES),
    }


def parse(body: dict[str, Any], exchange: Exchange, unknown: Unknown) -> Call | Presence:
    """Raises InvalidRequest and its kin, with the path of the field in `param`."""
    said, ignored = accept(fields(unknown), body, unknown=unknown)
    prompt, suffix = said.get("prompt", ""), said.get("suffix", "")
    if not prompt and not suffix:
        return presence(said, ignored)
    if said.get("raw") or suffix:
        _refuse_turns(said, "raw" if said.get("raw") else "suffix")
        return call(said, ignored, exchange, TextPrompt(prompt, suffix or None), partial(line, said["model"], None))
    turns = _turns(said, prompt)
    remember = partial(_after, turns)
    return call(said, ignored, exchange, ChatPrompt(turns), partial(line, said["model"], remember))


def _refuse_turns(said: dict[str, Any], because: str) -> None:
    for name in _OF_TURNS:
        if said.get(name):
            raise UnsupportedParameter(
                f"`{name}` is of conversations, and `{because}` takes the prompt as it stands. Send one of the two.",
                param=name,
            )


def _turns(said: dict[str, Any], prompt: str) -> Turns:
    """A system message of this request takes the place of the one that the conversation has."""
    earlier: Turns = said.get("context", [])
    if said.get("system"):
        earlier = [{"role": "system", "content": said["system"]},
                   *(turn for turn in earlier if turn["role"] != "system")]
    return [*earlier, {"role": "user", "content": prompt}]


def _after(turns: Turns, answer: str) -> list[int]:
    return encode([*turns, {"role": "assistant", "content": answer}])
