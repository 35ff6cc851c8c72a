"""Subjects that answer one request at a time, with their times, and the process that computes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Protocol

import msgspec
import psutil

from converters.quiet import ENVIRONMENT
from edged.errors import CorruptFile, Internal, InvalidRequest, RefusedFile
from training.endpoint import Endpoint
from training.evaluate.asking import request_of
from training.evaluate.child import Answered, Failed, Open, Opened, Question, Refused, Told
from training.evaluate.results import Memory
from training.evaluate.subject import Subject
from training.examples import Example
from training.reply import Reply
from training.weigh import weigh


class Racer(Protocol):
    def answer(self, example: Example, max_tokens: int) -> Reply:
        """With first_token_s. Raises InvalidRequest of a prompt that is refused, other errors of a subject that does
        not answer."""
        ...

    def memory(self) -> Memory: ...


@contextlib.contextmanager
def racer(subject: Subject) -> Iterator[Racer]:
    """Raises Internal, with its reason, where a process for it does not start; ConfigError."""
    if subject.kind == "hf":
        with _process(subject) as child:
            yield child
        return
    assert subject.base_url is not None
    assert subject.model is not None
    with Endpoint(subject.base_url, subject.model, api_key_env=subject.api_key_env, concurrency=1) as endpoint:
        yield _Served(endpoint, subject)


class _Child:
    def __init__(self, process: subprocess.Popen[bytes], subject: Subject) -> None:
        self._process = process
        self._subject = subject
        self._runtime_bytes = 0

    def open(self) -> None:
        adapter = self._subject.adapter
        opened = self._ask(Open(str(self._subject.folder), None if adapter is None else str(adapter)))
        assert isinstance(opened, Opened)
        self._runtime_bytes = opened.runtime_bytes

    def answer(self, example: Example, max_tokens: int) -> Reply:
        answered = self._ask(Question(example, max_tokens))
        assert isinstance(answered, Answered)
        return answered.reply

    def memory(self) -> Memory:
        return msgspec.structs.replace(
            _stored(self._subject), resident_bytes=_resident_bytes(self._process.pid),
            runtime_bytes=self._runtime_bytes)

    def _ask(self, said: Open | Question) -> Opened | Answered:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(msgspec.json.encode(said) + b"\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise Internal(f"the process that measures {self._subject.shown} ended with {self._process.wait()}; free "
                           "some memory, or set evaluate.performance = false")
        told: Told = msgspec.json.decode(line, type=Told)
        if isinstance(told, Failed):
            raise Internal(f"{self._subject.shown} cannot be measured: {told.why}")
        if isinstance(told, Refused):
            raise InvalidRequest(told.why)
        return told


class _Served:
    def __init__(self, endpoint: Endpoint, subject: Subject) -> None:
        self._endpoint = endpoint
        self._subject = subject

    def answer(self, example: Example, max_tokens: int) -> Reply:
        return self._endpoint.ask(request_of(example, max_tokens, self._subject, stream=True))

    def memory(self) -> Memory:
        stored = _stored(self._subject)
        if self._subject.loaded is None:
            return stored
        return msgspec.structs.replace(stored, resident_bytes=self._subject.loaded.resident_bytes())


@contextlib.contextmanager
def _process(subject: Subject) -> Iterator[_Child]:
    """Ended with the context, whatever happens in it."""
    with subprocess.Popen(
            [sys.executable, "-m", "training.evaluate.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env={**os.environ, **ENVIRONMENT}) as process:
        try:
            child = _Child(process, subject)
            child.open()
            yield child
        finally:
            process.kill()


def _stored(subject: Subject) -> Memory:
    """Nothing of what this machine does not have."""
    path = subject.artifact or (subject.folder if subject.kind == "hf" else None)
    if path is None:
        return Memory()
    try:
        weight = weigh(path, kv_element_bytes=4.0 if subject.kind == "hf" else None)
    except (RefusedFile, CorruptFile):
        return Memory()
    beside = sum(file.stat().st_size for file in subject.adapter.glob("*.safetensors")) \
        if subject.kind == "hf" and subject.adapter is not None else 0
    return Memory(weights_bytes=weight.weights_bytes + beside, kv_bytes_per_token=weight.kv_bytes_per_token)


def _resident_bytes(pid: int) -> int | None:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return None
