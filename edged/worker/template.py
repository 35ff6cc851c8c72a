"""Chat templates, rendered in child processes that can be killed without ending anyone's stream."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import Any

import msgspec

from edged.errors import InvalidRequest, LoadFailed
from edged.worker import renderer
from edged.worker.begun import marked, until_mark
from edged.worker.renderer import Answer, Render, Setup

#: Two, so that messages on which the template is slow hold up nobody else; the second starts when it is needed.
RENDERERS = 2
#: What chat_template_kwargs may not set: a request has fields of its own for it, or it is the model's.
RESERVED = frozenset({"messages", "tools", "add_generation_prompt", "chat_template", "continue_final_message"})
#: Allowed to a starting interpreter on a busy machine, on top of the deadline for compiling the template.
_START_S = 10.0
#: All that a renderer gets of the environment: where Python and its packages are, and the time zone.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "TZ")
_LENGTH = struct.Struct(">I")
_MEND = "Set another chat_template for this model in models.toml."


class Overdone(InvalidRequest):
    """The rendering took too much time or memory, which says nothing of what the template does with less."""


class Template:
    """One model's template. Thread-safe.

    source: Jinja. special: texts of the special tokens by name (`bos_token`, …), variables of the template. deadline_s:
    for one rendering. Raises LoadFailed where the template is no Jinja or cannot be compiled within the limits.
    """

    def __init__(
        self, source: str, special: dict[str, str], *, deadline_s: float = 5.0, child: Child | None = None,
    ) -> None:
        """child: its first one, where it was started in advance; it is this template's from now on."""
        self._setup = Setup(source=source, special=special, deadline_s=deadline_s)
        self._places = threading.BoundedSemaphore(RENDERERS)
        self._lock = threading.Lock()  # guards the two below
        self._closed = False
        self._idle = [self._prepared(child)]

    def render(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None,
        kwargs: dict[str, Any],
        *,
        add_generation_prompt: bool = True,
        continued: bool = False,
        null_content: bool = False,
    ) -> str:
        """The prompt; with `continued` up to the end of the last message's content. Raises InvalidRequest with the
        template's own message where it refuses the messages, and where it fails on them or exceeds time or memory;
        LoadFailed where the sandbox refuses the template."""
        if reserved := sorted(RESERVED & kwargs.keys()):
            raise InvalidRequest(
                f"chat_template_kwargs cannot set {reserved[0]}; leave it out.", param="chat_template_kwargs"
            )
        mark = ""
        if continued:
            (messages, mark), add_generation_prompt = marked(messages), False
        request = _encode(Render(messages, tools, kwargs, add_generation_prompt, null_content))
        with self._places:
            child = self._take()
            try:
                answer = child.ask(request, self._setup.deadline_s)
            except _Ended as ended:
                raise Overdone(_told(f"does not get through these messages: {ended}"), param="messages") from None
            finally:
                self._give_back(child)
        match answer.problem:
            case None:
                return until_mark(answer.text, mark) if continued else answer.text
            case "refused":
                raise InvalidRequest(answer.text, param="messages")
            case "forbidden":
                raise LoadFailed(f"The model's chat template does what no template may: {answer.text}. {_MEND}")
            case _:
                raise InvalidRequest(_told(f"fails on these messages: {answer.text}"), param="messages")

    def close(self) -> None:
        """Ends the renderers that wait now, and those that work when they are done."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for child in idle:
            child.close()

    def resident_bytes(self) -> int:
        """Of the processes that wait now."""
        with self._lock:
            return sum(child.resident_bytes() for child in self._idle)

    def _take(self) -> Child:
        with self._lock:
            child = self._idle.pop() if self._idle else None
        if child is not None and not child.alive:  # killed while it waited, by the kernel for its memory perhaps
            child.close()
            child = None
        return child or self._prepared(None)

    def _prepared(self, child: Child | None) -> Child:
        child = child or Child()
        child.prepare(self._setup)
        return child

    def _give_back(self, child: Child) -> None:
        with self._lock:
            if child.alive and not self._closed:
                self._idle.append(child)
                return
        child.close()


def _told(what: str) -> str:
    return f"The model's chat template {what}. Change the messages or tools."


def _encode(message: Setup | Render) -> bytes:
    try:
        return msgspec.msgpack.encode(message)
    except (OverflowError, UnicodeEncodeError) as error:
        raise InvalidRequest(f"A value is too large or no Unicode: {error}.", param="messages") from None


class _Ended(Exception):
    """The renderer is gone or must go; says why."""


class Child:
    """One renderer: its process and the socket to it. One call at a time. Not `alive` any more after _Ended."""

    def __init__(self) -> None:
        """Does not wait until the process runs. Raises LoadFailed where it cannot be started."""
        self._usable = False
        self._socket, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                # As a script, with no folder of edged's on its path: it needs none.
                [sys.executable, "-P", renderer.__file__],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            )
        except OSError as error:
            self._socket.close()
            raise LoadFailed(f"The process that renders chat templates does not start: {error.strerror}.") from error
        finally:
            theirs.close()

    def prepare(self, setup: Setup) -> None:
        """The template that it renders. Raises LoadFailed where it does not take it, and then it is closed."""
        try:
            answer = self.ask(_encode(setup), setup.deadline_s + _START_S)
            problem = answer.text if answer.problem else None
        except _Ended as ended:
            problem = str(ended)
        if problem is not None:
            self.close()
            raise LoadFailed(f"The model's chat template cannot be used: {problem}. {_MEND}")

    @property
    def alive(self) -> bool:
        return self._usable and self._process.poll() is None

    def resident_bytes(self) -> int:
        """0 where it has ended."""
        import psutil  # not before the process was started: it has imports of its own to do

        try:
            return int(psutil.Process(self._process.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def ask(self, body: bytes, timeout_s: float) -> Answer:
        until = time.monotonic() + timeout_s
        self._usable = False  # until the whole answer is here: half of one would be taken for the next
        try:
            self._socket.settimeout(timeout_s)
            self._socket.sendall(_LENGTH.pack(len(body)) + body)
            length = _LENGTH.unpack(self._receive(_LENGTH.size, until))[0]
            if length > 2 * renderer.MAX_TEXT_BYTES:
                raise _Ended("the process that renders it gave no answer that makes sense")
            answer = msgspec.msgpack.decode(self._receive(length, until), type=Answer)
        except TimeoutError:
            raise _Ended(f"it takes longer than {timeout_s:g} seconds") from None
        except OSError:
            raise _Ended("the process that renders it ended") from None
        except msgspec.DecodeError:
            raise _Ended("the process that renders it gave no answer that makes sense") from None
        if answer.problem == "memory":
            raise _Ended(
                f"it needs more than {renderer.MEMORY_BYTES >> 20} MiB of memory "
                f"or writes more than {renderer.MAX_TEXT_BYTES >> 20} MiB"
            )
        self._usable = True
        return answer

    def _receive(self, count: int, until: float) -> bytes:
        received = bytearray()
        while len(received) < count:
            self._socket.settimeout(max(until - time.monotonic(), 0.001))
            piece = self._socket.recv(count - len(received))
            if not piece:
                raise ConnectionResetError
            received += piece
        return bytes(received)

    def close(self) -> None:
        """Nothing is lost with it: a renderer has no state but the template."""
        self._usable = False
        self._process.kill()
        self._process.wait()
        self._socket.close()
