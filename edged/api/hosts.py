"""Against DNS rebinding and cross-site requests (T11): over TCP only the names this server is meant to be called by,
and only pages of the same origin or of one in `cors_origins`. The Unix socket is guarded by its file mode instead."""

from __future__ import annotations

from collections.abc import Iterable

from litestar.types import HTTPScope

from edged.errors import ForbiddenHost

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_WILDCARDS = ("", "0.0.0.0", "::", "[::]")
_DEFAULT_PORT = {"http": ":80", "https": ":443"}


def over_unix_socket(scope: HTTPScope) -> bool:
    """uvicorn gives (path, None) for a Unix socket and (address, port) for TCP; anything else counts as TCP."""
    server = scope["server"]
    return server is not None and server[1] is None


class Hosts:
    """`allowed`: names with or without a port; one without a port is allowed on every port."""

    def __init__(self, host: str, allowed: Iterable[str], origins: Iterable[str]) -> None:
        bracketed = f"[{host}]" if ":" in host and not host.startswith("[") else host
        own = () if host in _WILDCARDS else (bracketed,)
        self._own = frozenset(name.lower() for name in (*LOOPBACK, *own))
        self._allowed = frozenset(name.lower() for name in allowed)
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)

    def _known(self, authority: str, port: int | None) -> bool:
        """authority: host[:port], lower case."""
        name, colon, number = authority.rpartition(":")
        if not colon or number.endswith("]"):
            name, number = authority, "80"
        if name in self._own and number == str(port):
            return True
        return authority in self._allowed or name in self._allowed

    def check(self, scope: HTTPScope) -> None:
        """Raises ForbiddenHost."""
        if over_unix_socket(scope):
            return
        port = scope["server"][1] if scope["server"] else None
        hosts = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or not self._known(hosts[0], port):
            raise ForbiddenHost(
                "This server is not called by that Host name. Use localhost or 127.0.0.1 with the port, or add the "
                "name to allowed_hosts in the settings."
            )
        origins = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"origin"]
        if not all(self._same_site(origin, port) for origin in origins):
            raise ForbiddenHost(
                "Pages of another site may not call this server. If this one may, add its origin to cors_origins in "
                "the settings."
            )

    def _same_site(self, origin: str, port: int | None) -> bool:
        if origin in self._origins or "*" in self._origins:
            return True
        scheme, found, authority = origin.partition("://")
        if not found or scheme not in _DEFAULT_PORT:
            return False
        has_port = ":" in authority.rpartition("]")[2]
        return self._known(authority if has_port else authority + _DEFAULT_PORT[scheme], port)
