"""The process that renders chat templates: a child of the worker, run as a script with the standard library, jinja2
and msgspec only, so that it starts in a blink and has nothing worth reaching.

A template comes with a model, and a model can come from anyone. Jinja's immutable sandbox keeps a template from
Python's internals; it does not bound time or memory. This process does: an address space limit, and an alarm that the
kernel delivers even inside one endless C call, whatever has become of the parent. The parent (`edged.worker.template`)
kills and replaces it sooner.

Rendering is that of transformers 5 (`transformers.utils.chat_template_utils`): the same environment, extensions,
globals and filters, keys whose value is None left out of messages, reasoning under each of its names.

Frames on the socket at file descriptor 0: 4 bytes big-endian length, then msgpack. First comes a Setup, answered by an
Answer; then Renders, each answered by an Answer. The end of the stream ends the process.
"""

from __future__ import annotations

import json
import resource
import signal
import socket
import struct
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, Literal, NoReturn, TypeVar

import jinja2
import msgspec
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MEMORY_BYTES = 512 * 1024 * 1024
#: A rendered prompt is a fraction of a context; more is a bomb.
MAX_TEXT_BYTES = 16 * 1024 * 1024
#: Characters of an error's text; a template may put a whole conversation into one.
MAX_PROBLEM = 2000
#: How much later than the parent's deadline the alarm goes off.
ALARM_GRACE_S = 1.0

_LENGTH = struct.Struct(">I")

T = TypeVar("T")


class Setup(msgspec.Struct):
    """The template, the texts of the model's special tokens, and the deadline of each call, in seconds."""

    source: str
    special: dict[str, str]
    deadline_s: float


class Render(msgspec.Struct):
    """null_content: calls without words have the content None, which some templates ask for, and else an absent one."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    kwargs: dict[str, Any]
    add_generation_prompt: bool
    null_content: bool = False


#: syntax: the template is no Jinja. refused: its own raise_exception. forbidden: the sandbox said no. failed: it does
#: not fit the messages. memory: over a limit; the process ends after it, and after any problem with the template alone.
Problem = Literal["syntax", "refused", "forbidden", "failed", "memory"]


class Answer(msgspec.Struct, omit_defaults=True):
    """Text if there is no problem, else what is wrong."""

    text: str
    problem: Problem | None = None


class RaisedByTemplate(TemplateError):
    """`raise_exception` was called."""


class Generation(Extension):
    """`{% generation %}` marks the assistant's part for training; for rendering it is its body."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it as an instance attribute)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Any) -> Any:
        return caller()


class TemplateDict:
    """The global `dict`, without the attributes of the type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


class TemplateNamespace(Namespace):
    """The global `namespace`, without underscore names."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, args = args[0], args[1:]
        attributes = dict(*args, **kwargs)
        for name in attributes:
            _refuse_private(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace has no underscore names, but the template sets {name!r}")


def _raise_exception(message: str) -> NoReturn:
    raise RaisedByTemplate(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def compile_template(source: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["dict"] = TemplateDict()
    environment.globals["namespace"] = TemplateNamespace
    return environment.from_string(source)


_REASONING = ("reasoning_content", "thinking", "reasoning")


def visible(message: dict[str, Any], *, null_content: bool = False) -> dict[str, Any]:
    """The message as templates expect it: templates test for keys, so None is absence; reasoning has had three names,
    of which current templates read the first and gpt-oss the second."""
    no_words = null_content and message.get("tool_calls") and not message.get("content")
    message = {key: value for key, value in message.items() if value is not None}
    if no_words:
        message["content"] = None
    reasoning = next((message[name] for name in _REASONING if name in message), None)
    if reasoning is None:
        return message
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


def render(template: jinja2.Template, special: dict[str, str], request: Render) -> Answer:
    text = template.render({
        **special,
        "documents": None,
        **request.kwargs,
        "messages": [visible(message, null_content=request.null_content) for message in request.messages],
        "tools": request.tools,
        "add_generation_prompt": request.add_generation_prompt,
    })
    if len(text.encode()) > MAX_TEXT_BYTES:
        return Answer("", "memory")
    return Answer(text)


def attempt(work: Callable[[], T], deadline_s: float) -> T | Answer:
    """What `work` returns, or what went wrong. The alarm ends the process should neither come."""
    signal.setitimer(signal.ITIMER_REAL, deadline_s + ALARM_GRACE_S)
    try:
        return work()
    except MemoryError:
        return Answer("", "memory")
    except Exception as error:
        return _problem(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _problem(error: Exception) -> Answer:
    said = str(error)[:MAX_PROBLEM] or type(error).__name__
    text = said.rstrip(".")  # part of a sentence to come, but for what the template says itself
    match error:
        case RaisedByTemplate():
            return Answer(said, "refused")
        case SecurityError():
            return Answer(text, "forbidden")
        case TemplateSyntaxError():
            return Answer(f"line {error.lineno}: {text}", "syntax")
        case RecursionError():
            return Answer("it nests too deeply", "failed")
        case _:
            return Answer(text, "failed")


def serve(connection: socket.socket) -> None:
    stream = connection.makefile("rwb")

    def receive() -> bytes:
        header = stream.read(_LENGTH.size)
        return stream.read(_LENGTH.unpack(header)[0]) if len(header) == _LENGTH.size else b""

    def send(answer: Answer) -> None:
        body = msgspec.msgpack.encode(answer)
        stream.write(_LENGTH.pack(len(body)) + body)
        stream.flush()

    if not (body := receive()):
        return
    setup = msgspec.msgpack.decode(body, type=Setup)
    template = attempt(lambda: compile_template(setup.source), setup.deadline_s)
    if isinstance(template, Answer):
        send(template)
        return
    send(Answer(""))
    while body := receive():
        request = msgspec.msgpack.decode(body, type=Render)
        answer = attempt(partial(render, template, setup.special, request), setup.deadline_s)
        send(answer)
        if answer.problem == "memory":
            return


def main() -> None:
    # A ctrl-C or a SIGTERM to the whole group is for the daemon, which ends its workers in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # The default action ends the process in the kernel; a Python handler would wait for the C call to return.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    serve(socket.socket(fileno=0))


if __name__ == "__main__":
    main()
