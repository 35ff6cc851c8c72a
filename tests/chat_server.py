"""A small OpenAI-compatible endpoint on loopback, with a script: what it answers and how it fails is the test's.

    with ChatServer(lambda body: answer("yes")) as server:
        Endpoint(server.url, "any")
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

Body = dict[str, Any]


@dataclass
class Answer:
    """body: JSON, or bytes as they are. broken: the connection is cut after the body, which said that it is longer."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    broken: bool = False


def answer(text: str, *, finish_reason: str = "stop", prompt_tokens: int = 10, completion_tokens: int = 5,
           tool_calls: list[dict[str, Any]] | None = None) -> Answer:
    message = {"role": "assistant", "content": text, **({"tool_calls": tool_calls} if tool_calls else {})}
    return Answer({
        "id": "x", "object": "chat.completion", "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": None}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
                  "total_tokens": prompt_tokens + completion_tokens}})


def refusal(status: int, message: str, **headers: str) -> Answer:
    return Answer({"error": {"message": message, "type": "x", "code": "x"}}, status,
                  {name.replace("_", "-"): value for name, value in headers.items()})


class ChatServer:
    """bodies, keys: of every request so far, in their order. complete: what `/v1/completions` answers."""

    def __init__(self, say: Callable[[Body], Answer], complete: Callable[[Body], Answer] | None = None) -> None:
        self.bodies: list[Body] = []
        self.keys: list[str | None] = []
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with outer._lock:
                    outer.bodies.append(body)
                    outer.keys.append(self.headers.get("authorization"))
                if self.path == "/v1/completions" and complete is not None:
                    said = complete(body)
                else:
                    said = say(body) if self.path == "/v1/chat/completions" else refusal(404, "no such path")
                data = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
                self.send_response(said.status)
                for name, value in said.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data) + (100 if said.broken else 0)))
                self.end_headers()
                self.wfile.write(data)
                self.close_connection = said.broken

            def log_message(self, *said: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> ChatServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
