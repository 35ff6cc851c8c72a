"""Prompts that are ready before anybody asks: the system messages that the operator named (`warm_prompts`).

Each is rendered as the beginning that every chat with this system message has, in a thread beside the loop, and then
computed as a request of the loop's own, or brought back from a file: one at a time, only while no client's request can
run, and given up for one that comes. What is given up goes on later from where it was. A prompt that cannot be warmed
is told in one line, and fails nothing.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from edged.errors import EdgedError
from edged.types import ChatPrompt, GenerateRequest, TokenPrompt
from edged.worker.journal import journal
from edged.worker.orders import Noted, Order, Warm
from edged.worker.prefix import OPERATOR_SCOPE, common_prefix
from edged.worker.prepare import Prepared

#: Two first messages of a user that begin differently: what chats have in common ends before them.
_FIRST_MESSAGES = ("Hello", "9 of them?")
#: Of a line that tells of a prompt.
_SHOWN_CHARS = 40


class WarmQueue:
    """What is to be warmed, and what is being warmed: state of the loop."""

    def __init__(self) -> None:
        self._known: list[Prepared] = []
        self._waiting: deque[Prepared] = deque()
        self._current: Prepared | None = None

    @property
    def current(self) -> str | None:
        """The request that is being computed for this."""
        return None if self._current is None else self._current.request.id

    def add(self, prepared: Prepared) -> None:
        self._known.append(prepared)
        self._waiting.append(prepared)

    def next(self) -> Prepared | None:
        """The one to compute now; None while another is."""
        if self._current is not None or not self._waiting:
            return None
        self._current = self._waiting.popleft()
        return self._current

    def ended(self) -> None:
        """It is warm, or failed."""
        self._current = None

    def given_up(self) -> None:
        """It goes on when there is time again."""
        assert self._current is not None
        self._waiting.appendleft(self._current)
        self._current = None

    def all_again(self) -> None:
        """Nothing is kept any more. None may be under way."""
        assert self._current is None
        self._waiting = deque(self._known)


def render_warm_prompts(
    texts: Sequence[str], prepare: Callable[[GenerateRequest], Prepared], inbox: SimpleQueue[Order[Prepared]],
) -> None:
    """In a thread: each comes to the inbox as Warm, or as Noted. prepare: thread-safe; raises EdgedError."""
    if texts:
        threading.Thread(target=_render, args=(texts, prepare, inbox), name="warm", daemon=True).start()


class Unwarmable(Exception):
    """In words."""


def _render(
    texts: Sequence[str], prepare: Callable[[GenerateRequest], Prepared], inbox: SimpleQueue[Order[Prepared]],
) -> None:
    for number, text in enumerate(texts, start=1):
        try:
            inbox.put(Warm(_beginning(text, f"warm-{number}", prepare)))
        except (EdgedError, Unwarmable) as error:
            reason = error.message if isinstance(error, EdgedError) else str(error)
            note = f"warm prompt {number} ({_shown(text)}) is not warm: {reason}"
            journal().warning("warm_prompt_refused", reason=note)
            inbox.put(Noted(note))
        except Exception:
            journal().exception("warm_prompt_failed", number=number)
            inbox.put(Noted(f"warm prompt {number} ({_shown(text)}) is not warm; the log says why"))


def _beginning(text: str, request: str, prepare: Callable[[GenerateRequest], Prepared]) -> Prepared:
    """Raises EdgedError, Unwarmable."""

    def tokens(system: str, user: str) -> list[int]:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        return prepare(GenerateRequest(id=request, prompt=ChatPrompt(messages))).tokens

    one, other = (tokens(text, first) for first in _FIRST_MESSAGES)
    common = common_prefix(one, other, min(len(one), len(other)))
    without = tokens("-", _FIRST_MESSAGES[0])
    if common <= common_prefix(one, without, min(len(one), len(without))):
        raise Unwarmable("this model's chat template does not show a system message before the first message of the "
                         "user; set another chat_template, or take the prompt out of models.toml")
    return prepare(GenerateRequest(
        id=request, prompt=TokenPrompt(one[:common]), max_tokens=0, cache_scope=OPERATOR_SCOPE))


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARS else f"{line[:_SHOWN_CHARS - 1]}…"
