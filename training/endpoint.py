"""A client of OpenAI-compatible endpoints: teachers, judges, and what is served in the end.

    with Endpoint("http://127.0.0.1:8343/v1", "home") as endpoint:
        reply = endpoint.ask(Ask(messages=(Message("user", "Hello"),), max_tokens=32))
        for key, reply in endpoint.ask_all((example.id, ask(example)) for example in examples):
            ...

Failures that another attempt may mend (no connection, 408, 409, 425, 429, 5xx, a stream that breaks off) are tried
again with back-off, not before the time that `Retry-After` names, which then holds for all requests. Of many requests
one on which the endpoint fails every time (500, an error that comes as an answer) fails alone, where others are
answered after it. The key goes into the Authorization header of requests to the endpoint's own address and nowhere
else: redirects are not followed.
"""

from __future__ import annotations

import asyncio
import email.utils
import ipaddress
import itertools
import os
import random
import time
from collections.abc import Coroutine, Hashable, Iterable, Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TypeVar

import httpx
import msgspec

from edged.errors import ConfigError, EdgedError, InvalidApiKey, InvalidRequest, ModelNotFound, SourceUnavailable
from training.chat_wire import (
    Ask,
    Joined,
    NotAnAnswer,
    StreamError,
    body_of,
    error_in,
    reply_of,
    wants_other_limit,
)
from training.examples import Message
from training.reply import Reply

ATTEMPTS = 6
#: So many requests that fail on end, though others were answered before, are the endpoint's failure.
MOST_FAILED = 8
_LONGEST_BACKOFF_S = 30.0
#: Asked to wait for longer than this, it gives up and says so: a quota of a day is not waited for.
LONGEST_WAIT_S = 300.0
#: Of edged: name and version of what answered.
_SERVED_HEADER = "edged-model"
_AGAIN = (408, 409, 425, 429)
#: The request itself is refused, which others need not be.
_REFUSED = (400, 413, 422)

#: An edged that captures its answers does not capture these: questions of a test, and a teacher's answers, must not
#: come back as data. Other servers know no such header.
_NOT_CAPTURED = {"edged-capture": "off"}

_HELLO = Ask(messages=(Message("user", "Hello"),), max_tokens=1)

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


class _Again(Exception):
    """This attempt failed in a way that another may not. wait_s: what the endpoint asked for. of_request: it may be the
    request's fault."""

    def __init__(self, why: str, wait_s: float = 0.0, *, of_request: bool = False) -> None:
        super().__init__(why)
        self.wait_s = wait_s
        self.of_request = of_request


class _FailedOn(SourceUnavailable):
    """The endpoint, which answered others, failed on this request in all attempts. alone: what to say of it where
    others are answered after it."""

    alone = ""


class Endpoint:
    """Context manager; one thread, which has no running event loop. concurrency: requests at once of `ask_all`.
    timeout_s: without a byte of an answer; an answer that is not streamed comes all at its end. backoff_s: the first
    wait after a failure, each further one is twice as long. answered: it is known to be an OpenAI-compatible one, as
    any good answer shows: what is none is then that request's failure alone."""

    def __init__(
        self, base_url: str, model: str, *, api_key_env: str | None = None, concurrency: int = 4,
        timeout_s: float = 600.0, attempts: int = ATTEMPTS, backoff_s: float = 0.5,
        answered: bool = False,
    ) -> None:
        """Raises ConfigError: an address that is none, a variable that is not set."""
        self.base_url = base_url.rstrip("/")
        self.model = model
        self._concurrency = concurrency
        self._attempts = attempts
        self._backoff_s = backoff_s
        self._key_name = api_key_env
        self._answered = answered
        self._limit_key = "max_tokens"
        self._not_before_s = 0.0
        self._runner = asyncio.Runner()
        self._client = httpx.AsyncClient(
            headers=_NOT_CAPTURED | key_header(api_key_env), timeout=httpx.Timeout(timeout_s, connect=15.0, pool=None),
            limits=httpx.Limits(max_connections=None), follow_redirects=False,
            trust_env=not on_this_machine(checked_url(self.base_url)))

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()

    def ask(self, ask: Ask) -> Reply:
        """Raises InvalidRequest: this request is refused, or what came is none of OpenAI's form where others were;
        InvalidApiKey; ModelNotFound; SourceUnavailable: no answer after all attempts, or none of OpenAI's form."""
        return self._run(self._reply(ask))

    def ask_all(self, asks: Iterable[tuple[Key, Ask]]) -> Iterator[tuple[Key, Reply | InvalidRequest]]:
        """Replies under their keys in the order in which they come; an InvalidRequest where that one was refused, or
        failed alone. `asks` is read no further than there are free places, so whoever writes it can end it early. Other
        errors end it, as those of `ask`; requests that are under way when it is closed are broken off."""
        waiting = iter(asks)
        running: dict[asyncio.Task[Reply | InvalidRequest | _FailedOn], Key] = {}
        failed: list[tuple[Key, _FailedOn]] = []
        loop = self._runner.get_loop()
        try:
            while True:
                for key, ask in itertools.islice(waiting, self._concurrency - len(running)):
                    running[loop.create_task(self._reply_or_refusal(ask))] = key
                if not running:
                    # Nothing was answered after them, so nobody knows yet that it was not the endpoint.
                    if failed and not self._run(self._lives()):
                        raise failed[-1][1]
                    yield from _alone(failed)
                    return
                done, _ = self._run(asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED))
                # What came is handed on, and paid for, though another one ends it all.
                for task in sorted(done, key=_replies_first):
                    key, result = running.pop(task), task.result()
                    if isinstance(result, _FailedOn):
                        # Whose failure it is shows in what comes after it.
                        failed.append((key, result))
                        if len(failed) >= MOST_FAILED:
                            raise result
                        continue
                    yield key, result
                    if not isinstance(result, InvalidRequest):
                        yield from _alone(failed)
                        failed.clear()
        finally:
            for task in running:
                task.cancel()
            self._run(_ended(running))

    def _run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return self._runner.run(coroutine)

    async def _lives(self) -> bool:
        """It answers the simplest question."""
        try:
            await self._reply(_HELLO)
        except EdgedError:
            return False
        return True

    async def _reply_or_refusal(self, ask: Ask) -> Reply | InvalidRequest | _FailedOn:
        try:
            return await self._reply(ask)
        except (InvalidApiKey, ModelNotFound):
            raise
        except (InvalidRequest, _FailedOn) as refused:
            return refused

    async def _reply(self, ask: Ask) -> Reply:
        for attempt in itertools.count(1):
            await self._until_allowed()
            try:
                return await self._once(ask)
            except (_Again, StreamError, httpx.RequestError) as error:
                why = str(error) or type(error).__name__
                if attempt >= self._attempts:
                    of_request = isinstance(error, StreamError) or (isinstance(error, _Again) and error.of_request)
                    kind = _FailedOn if of_request and self._answered else SourceUnavailable
                    failure = kind(
                        f"{self.base_url} does not answer ({why}), after {attempt} attempts; see that it runs and that "
                        "the address is right, then run this again")
                    if isinstance(failure, _FailedOn):
                        failure.alone = f"{self.base_url} fails on this request ({why}), in all {attempt} attempts"
                    raise failure from None
                wait_s = error.wait_s if isinstance(error, _Again) else 0.0
                if wait_s:
                    self._not_before_s = max(self._not_before_s, time.monotonic() + wait_s)
                backoff_s = min(self._backoff_s * 2 ** (attempt - 1), _LONGEST_BACKOFF_S)
                await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))
            except NotAnAnswer as error:
                if self._answered:
                    raise InvalidRequest(f"{self.base_url}: {error}") from None
                raise SourceUnavailable(f"{self.base_url}: {error}; is it an OpenAI-compatible address, as in "
                                        "http://127.0.0.1:8343/v1?") from None
        raise AssertionError("unreachable")

    async def _until_allowed(self) -> None:
        # Another request may have put it off meanwhile: no event says so.
        while (left_s := self._not_before_s - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left_s)

    async def _once(self, ask: Ask) -> Reply:
        sent_key = self._limit_key
        body = body_of(ask, self.model, limit_key=sent_key)
        began_s = time.monotonic()
        async with self._client.stream("POST", f"{self.base_url}/chat/completions", json=body) as response:
            if response.status_code == 200:
                reply = await _streamed(response, began_s) if ask.stream else \
                    reply_of(await response.aread(), time.monotonic() - began_s)
                self._answered = True
                served = response.headers.get(_SERVED_HEADER)
                return msgspec.structs.replace(reply, served=served) if served else reply
            said = error_in(await response.aread())
            if wants_other_limit(response.status_code, said, sent_key):
                self._limit_key = "max_completion_tokens"
                raise _Again(said)
            raise self._failure(response, said)

    def _failure(self, response: httpx.Response, said: str) -> EdgedError | _Again:
        status, where = response.status_code, f"{self.base_url} says {response.status_code}: {said}"
        if passes(response):
            wait_s = retry_after_s(response.headers.get("retry-after"))
            if wait_s > LONGEST_WAIT_S:
                return SourceUnavailable(f"{where}. It asks to be left alone for {wait_s:.0f} s; run this again then")
            return _Again(f"{status}: {said}", wait_s, of_request=status == 500)
        if status in _REFUSED:
            return InvalidRequest(where)
        if status in (401, 403):
            mend = f"see the key in the variable {self._key_name}" if self._key_name else \
                "name the variable that holds the key, as in api_key_env = \"TEACHER_KEY\""
            return InvalidApiKey(f"{where}; {mend}")
        if status == 404:
            return ModelNotFound(f"{where}; see the endpoint's address and that it serves {self.model!r}")
        return SourceUnavailable(where)


def passes(response: httpx.Response) -> bool:
    """Whether a failure is one that another attempt may mend."""
    status = response.status_code
    return (status in _AGAIN or status >= 500) and response.headers.get("x-should-retry") != "false"


def _alone(failed: Iterable[tuple[Key, _FailedOn]]) -> Iterator[tuple[Key, InvalidRequest]]:
    return ((key, InvalidRequest(each.alone)) for key, each in failed)


def _replies_first(task: asyncio.Task[Reply | InvalidRequest | _FailedOn]) -> int:
    return 2 if task.exception() is not None else int(isinstance(task.result(), _FailedOn))


async def _ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


async def _streamed(response: httpx.Response, began_s: float) -> Reply:
    joined, first_token_s = Joined(), None
    async for line in response.aiter_lines():
        if joined.take(line) and first_token_s is None:
            first_token_s = time.monotonic() - began_s
    return joined.reply(time.monotonic() - began_s, first_token_s)


def checked_url(base_url: str) -> httpx.URL:
    """Raises ConfigError."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"{base_url!r} is no address ({error}); it looks like http://127.0.0.1:8343/v1") from None
    if url.userinfo:
        raise ConfigError("an endpoint's address has no user name and no password in it; the key goes into a variable "
                          "of the environment, which api_key_env names")
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"{base_url!r} is no address of an endpoint; it looks like http://127.0.0.1:8343/v1")
    return url


def check(base_url: str, api_key_env: str | None) -> None:
    """What can be told of an endpoint without asking it. Raises ConfigError."""
    checked_url(base_url)
    key_header(api_key_env)


def retry_after_s(said: str | None) -> float:
    """Seconds or an HTTP date (RFC 9110, 10.2.3); 0 for none and for one that is neither."""
    if not said:
        return 0.0
    try:
        return max(0.0, float(said)) if said.strip().lower() not in ("nan", "inf", "infinity") else 0.0
    except ValueError:
        pass
    try:
        when = email.utils.parsedate_to_datetime(said)
    except ValueError:
        return 0.0
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def key_header(variable: str | None) -> dict[str, str]:
    """With the key that a variable of the environment holds. Raises ConfigError where it is not set."""
    if variable is None:
        return {}
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"the variable {variable} is not set, which the recipe names as the holder of a key; "
                          f"export {variable}=…")
    return {"authorization": f"Bearer {key}"}


def on_this_machine(url: httpx.URL) -> bool:
    """Then no proxy of the environment is asked."""
    if url.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(url.host).is_loopback
    except ValueError:
        return False
