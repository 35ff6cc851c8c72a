"""Who calls, and what they may: keys are compared in constant time and known by their hashes only."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import NamedTuple

from litestar.types import HTTPScope

from edged.api.hosts import over_unix_socket
from edged.api.limits import header
from edged.errors import AdminKeyRequired, InvalidApiKey
from edged.settings import hash_key

FREE_PREFIX = "/health/"


class Caller(NamedTuple):
    """`client` is the key of fairness between clients; it never holds a key in the clear. known: showed a good key, or
    needs none."""

    client: str
    admin: bool
    known: bool


NOBODY = Caller("", admin=False, known=False)


def _shown_key(scope: HTTPScope) -> str | None:
    authorization = header(scope, b"authorization")
    if authorization is not None:
        scheme, _, key = authorization.partition(" ")
        return key.strip() if scheme.lower() == "bearer" else None
    return header(scope, b"x-api-key")


def _among(hashed: str, keys: Iterable[str]) -> bool:
    """No early exit: the time taken says nothing of which key matched."""
    found = False
    for key in keys:
        found |= hmac.compare_digest(hashed, key)
    return found


class Keys:
    """`api`, `admin`: hashes as in `edged.settings.hash_key`. No api keys: everybody may use the models; no keys at
    all: everybody may do everything. An admin key is good for every route. Where only api keys are set, the admin
    routes are for the Unix socket, whose file mode is the guard."""

    def __init__(self, api: Iterable[str], admin: Iterable[str]) -> None:
        self._api = tuple(api)
        self._admin = tuple(admin)

    def check(self, scope: HTTPScope) -> Caller:
        """Who calls. Raises InvalidApiKey where the route needs a key; what needs an admin asks `require_admin`.
        Browsers ask OPTIONS without the key; it tells only which methods there are."""
        if over_unix_socket(scope):
            return Caller("unix", admin=True, known=True)
        peer = scope["client"][0] if scope["client"] else "unknown"
        if not (self._api or self._admin):
            return Caller(peer, admin=True, known=True)
        free = not self._api or scope["path"].startswith(FREE_PREFIX) or scope["method"] == "OPTIONS"
        key = _shown_key(scope)
        hashed = hash_key(key) if key is not None else ""
        is_admin, is_api = _among(hashed, self._admin), _among(hashed, self._api)
        if is_admin or is_api:
            return Caller(hashed[: len("sha256:") + 16], is_admin, known=True)
        if free:
            return Caller(peer, admin=False, known=False)
        raise _no_key() if key is None else InvalidApiKey(
            "The key is not one of this server's; check the api_keys of its settings."
        )


def _no_key() -> InvalidApiKey:
    return InvalidApiKey("This server asks for a key: send it as `Authorization: Bearer KEY`.")


def require_admin(caller: Caller) -> None:
    """Raises InvalidApiKey and AdminKeyRequired."""
    if caller.admin:
        return
    if not caller.known:
        raise _no_key()
    raise AdminKeyRequired(
        "This route needs one of the admin_keys of the settings, or the Unix socket on the machine itself."
    )
