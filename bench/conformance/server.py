"""The server under test: requests that tell a refusal from an answer, and the shapes that checks ask for."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx

from bench.conformance.outcome import Absent, Broken, Refused, Silent, expect

TIMEOUT_S = 60.0
COUNTING = "Count from 1 to 50: 1, 2, 3,"
QUESTION = "Write a short story about a river."


@dataclass(frozen=True)
class Reply:
    status: int
    headers: httpx.Headers
    text: str

    @property
    def json(self) -> Any:
        try:
            return json.loads(self.text)
        except ValueError as error:
            raise Broken(f"{self.status} without JSON: {self.text[:80]!r}") from error

    @property
    def message(self) -> str:
        """What an error says, wherever it says it, with the field that it names."""
        try:
            found = json.loads(self.text)
        except ValueError:
            return self.text[:300]
        error = found.get("error", found) if isinstance(found, dict) else found
        if isinstance(error, dict):
            return f"{error.get('message', error)} [{error.get('param')}]"
        return str(error)


@dataclass
class Server:
    """model: answers chats. embedder, reranker: names of models for these, None where there is none. key: sent as a
    bearer token."""

    base_url: str
    model: str
    context: int = 2048
    embedder: str | None = None
    reranker: str | None = None
    key: str = "none"
    _client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        # A connection for each request: a server that closes one it had kept has not failed to answer.
        self._client = httpx.Client(
            base_url=self.base_url, timeout=TIMEOUT_S, limits=httpx.Limits(max_keepalive_connections=0),
            headers={"authorization": f"Bearer {self.key}"})

    def wait(self, timeout_s: float) -> None:
        """For each answer from now on, instead of TIMEOUT_S."""
        self._client.timeout = httpx.Timeout(timeout_s)

    def close(self) -> None:
        self._client.close()

    # Requests

    def send(self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None,
             content: bytes | None = None) -> Reply:
        """Whatever comes, comes back. Raises Broken where nothing does."""
        try:
            reply = self._client.request(
                method, path, json=body if content is None else None, content=content, headers=headers)
        except httpx.HTTPError as error:
            raise Broken(f"no answer: {type(error).__name__}") from error
        return Reply(reply.status_code, reply.headers, reply.text)

    def ask(self, path: str, body: Any, *names: str, method: str = "POST",
            headers: dict[str, str] | None = None) -> Any:
        """The JSON of an answer. names: a refusal must name one of them to be honest; without any every message is."""
        return self.took(self.send(method, path, body, headers=headers), path, *names).json

    def took(self, reply: Reply, path: str, *names: str) -> Reply:
        """The reply, if it is a 2xx. Raises Absent, Refused or Broken."""
        if reply.status < 300:
            return reply
        if reply.status in (404, 405, 501) and not _within(reply, names):
            raise Absent(f"{reply.status}")
        note = f"{reply.status}: {reply.message}"
        if reply.status < 500 and (not names or any(name.lower() in reply.message.lower() for name in names)):
            raise Refused(note)
        raise Broken(note)

    def refusal(self, path: str, body: Any, *names: str, method: str = "POST") -> Reply:
        """The 4xx that a request must get, naming one of `names`. Raises Silent where it is answered."""
        reply = self.send(method, path, body)
        if reply.status < 300:
            raise Silent(f"answered with {reply.status}")
        if reply.status in (404, 405, 501) and not _within(reply, names):
            raise Absent(f"{reply.status}")
        if reply.status >= 500:
            raise Broken(f"{reply.status}: {reply.message}")
        if names and not any(name.lower() in reply.text.lower() for name in names):
            raise Broken(f"{reply.status} that names none of {', '.join(names)}: {reply.message}")
        return reply

    def events(self, path: str, body: Any, *names: str) -> list[tuple[str, Any]]:
        """(event, data) of a stream of server-sent events; data is JSON where it is JSON."""
        reply = self.took(self.send("POST", path, body), path, *names)
        found = []
        for block in reply.text.replace("\r\n", "\n").split("\n\n"):
            lines = [line.partition(":") for line in block.split("\n")]
            data = "\n".join(value.removeprefix(" ") for name, _, value in lines if name == "data")
            if data:
                event = "".join(value.strip() for name, _, value in lines if name == "event")
                found.append((event, _read(data)))
        return found

    def first_events(self, path: str, body: Any, count: int) -> int:
        """How many events of a stream come, at most `count`; then the stream is left."""
        seen = 0
        try:
            with self._client.stream("POST", path, json=body) as reply:
                if reply.status_code >= 300:
                    self.took(Reply(reply.status_code, reply.headers, reply.read().decode()), path)
                for line in reply.iter_lines():
                    seen += line.startswith("data: {")
                    if seen == count:
                        break
        except httpx.HTTPError as error:
            raise Broken(f"no answer: {type(error).__name__}") from error
        return seen

    # Chats

    def chat_body(self, said: str = COUNTING, **fields: Any) -> dict[str, Any]:
        body = {"model": self.model, "messages": [{"role": "user", "content": said}], "max_tokens": 12,
                "temperature": 0}
        return {name: value for name, value in (body | fields).items() if value is not None}

    def chat(self, *names: str, said: str = COUNTING, **fields: Any) -> Any:
        return self.ask("/v1/chat/completions", self.chat_body(said, **fields), *names)

    def text(self, *names: str, **fields: Any) -> str:
        return content(self.chat(*names, **fields))

    def chunks(self, *names: str, **fields: Any) -> list[Any]:
        """Of a streamed chat, without the end mark."""
        events = self.events("/v1/chat/completions", self.chat_body(**fields, stream=True), *names)
        expect(events and events[-1][1] == "[DONE]", "a stream without [DONE]")
        return [data for _, data in events[:-1]]

    def streamed(self, *names: str, index: int = 0, **fields: Any) -> str:
        return "".join(
            choice["delta"].get("content") or "" for chunk in self.chunks(*names, **fields)
            for choice in chunk["choices"] if choice["index"] == index)

    def complete(self, *names: str, **fields: Any) -> Any:
        body = {"model": self.model, "prompt": COUNTING, "max_tokens": 12, "temperature": 0} | fields
        return self.ask("/v1/completions", {name: value for name, value in body.items() if value is not None}, *names)


def _within(reply: Reply, names: tuple[str, ...]) -> bool:
    """Whether a 404 is about something that was asked for, and not about the route."""
    named = any(name.lower() in reply.message.lower() for name in names)
    return reply.status == 404 and (named or "model_not_found" in reply.text)


def content(answer: Any) -> str:
    return str(answer["choices"][0]["message"]["content"] or "")


def _read(data: str) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data
