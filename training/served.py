"""A daemon that serves what was deployed, for as long as it is measured: the one that runs on the store of the
settings, or one of our own on a free port, which ends with the measurement.

A running daemon is used over TCP, as its clients do, unless it asks them for keys, which it keeps hashed: then one of
our own is started beside it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import msgspec
from msgspec import Struct

from converters.child import die_with_parent
from edged.errors import Conflict, Internal
from edged.settings import Settings, load_settings
from training.deploy.command import EDGED

START_LIMIT_S = 60.0
STOP_LIMIT_S = 30.0
CONNECT_LIMIT_S = 5.0


class _Status(Struct, frozen=True):
    pid: int
    home: str
    addresses: tuple[str, ...]


class _Model(Struct, frozen=True):
    """Of `edged.daemon.status.ModelStatus`."""

    name: str
    version: str
    device: str | None = None
    resident_bytes: int = 0


class _Models(Struct, frozen=True):
    models: tuple[_Model, ...]


class _Failed(Struct, frozen=True):
    class Error(Struct, frozen=True):
        message: str

    error: Error


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that a daemon had in memory. address: of the daemon."""

    name: str
    version: str
    device: str | None
    address: str

    def resident_bytes(self) -> int | None:
        """Of the worker that serves it, as the daemon tells now; None where it does not, or where it is no longer in
        memory."""
        try:
            told = httpx.get(f"{self.address}/edged/v1/ps", timeout=CONNECT_LIMIT_S, trust_env=False)
            models = msgspec.json.decode(told.content, type=_Models).models
        except (httpx.HTTPError, msgspec.MsgspecError):
            return None
        return next((each.resident_bytes or None for each in models
                     if (each.name, each.version) == (self.name, self.version)), None)


@dataclass(frozen=True, slots=True)
class Server:
    """base_url: with /v1, for any client. own: it was started for this."""

    base_url: str
    pid: int
    own: bool

    def load(self, model: str) -> Loaded:
        """Returns once it answers. Raises Conflict with the daemon's reason where it cannot."""
        # No limit: a load takes as long as it takes.
        address = self.base_url.removesuffix("/v1")
        response = httpx.post(f"{address}/edged/v1/load", json={"model": model}, timeout=None, trust_env=False)
        status = _decoded(response, model)
        return Loaded(status.name, status.version, status.device, address)


@contextlib.contextmanager
def serving(log: Path) -> Iterator[Server]:
    """log: where a daemon of our own writes. Raises Internal where it does not start, with its last words."""
    settings, _ = load_settings()
    running = _running(settings)
    keys = settings.api_keys or settings.admin_keys
    if running is not None and running.addresses and not keys and _open(running.addresses[0]):
        yield Server(f"{running.addresses[0].rstrip('/')}/v1", running.pid, own=False)
        return
    with _started(settings, log) as server:
        yield server


def _running(settings: Settings) -> _Status | None:
    """At the socket of the settings, on their store."""
    if settings.socket is None or not settings.socket.exists():
        return None
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(settings.socket)), base_url="http://edged",
                      timeout=CONNECT_LIMIT_S, trust_env=False) as client:
        try:
            status = msgspec.json.decode(client.get("/edged/v1/status").content, type=_Status)
        except (httpx.HTTPError, msgspec.MsgspecError):
            return None
    return status if os.path.realpath(status.home) == os.path.realpath(settings.home) else None


def _open(address: str) -> bool:
    """It answers clients without a key."""
    try:
        return httpx.get(f"{address.rstrip('/')}/v1/models", timeout=CONNECT_LIMIT_S, trust_env=False).is_success
    except httpx.HTTPError:
        return False


@contextlib.contextmanager
def _started(settings: Settings, log: Path) -> Iterator[Server]:
    # Temporary: what the operator's daemon has in memory is not this one's to load, nor to forget.
    command = [*EDGED, "serve", "--temporary", "--host", "127.0.0.1", "--port", "0", "--socket", "off",
               "--log-format", "json", "--api-keys=", "--admin-keys="]
    environment = {**os.environ, "EDGED_HOME": str(settings.home)}
    with log.open("wb") as out, subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            # However this process ends, it leaves no daemon. A stage has one thread when it starts one.
            preexec_fn=partial(die_with_parent, os.getpid())) as process:  # noqa: PLW1509
        try:
            yield Server(f"{_listening(process, log)}/v1", process.pid, own=True)
        finally:
            process.terminate()
            try:
                process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _listening(process: subprocess.Popen[bytes], log: Path) -> str:
    """Its address, once it says it. Raises Internal."""
    ends_s = time.monotonic() + START_LIMIT_S
    while time.monotonic() < ends_s and process.poll() is None:
        for line in log.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and entry.get("event") == "listening":
                    return str(entry["url"]).rstrip("/")
        time.sleep(0.05)
    words = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    raise Internal(f"`edged serve` did not start for the measurement: {words[-1][:300]}; {log} tells more")


def _decoded(response: httpx.Response, model: str) -> _Model:
    if response.is_error:
        try:
            why = msgspec.json.decode(response.content, type=_Failed).error.message
        except msgspec.MsgspecError:
            why = f"the daemon answered {response.status_code}"
        raise Conflict(f"{model} cannot be measured as it is served: {why}")
    return msgspec.json.decode(response.content, type=_Model)
