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
ADMIN_PREFIX = "/edged/"


class Caller(NamedTuple):
    """`client` is the key of fairness between clients; it never holds a key in the clear."""

    client: str
    admin: bool


NOBODY = Caller("", admin=False)


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
        """Raises InvalidApiKey and AdminKeyRequired."""
        if over_unix_socket(scope):
            return Caller("unix", admin=True)
        peer = scope["client"][0] if scope["client"] else "unknown"
        path = scope["path"]
        if path.startswith(FREE_PREFIX) or not (self._api or self._admin):
            return Caller(peer, admin=not (self._api or self._admin))
        wants_admin = path.startswith(ADMIN_PREFIX)
        if not self._api and not wants_admin:
            return Caller(peer, admin=False)
        key = _shown_key(scope)
        if key is None:
            raise InvalidApiKey("This server asks for a key: send it as `Authorization: Bearer KEY`.")
        hashed = hash_key(key)
        is_admin, is_api = _among(hashed, self._admin), _among(hashed, self._api)
        if not (is_admin or is_api):
            raise InvalidApiKey("The key is not one of this server's; check the api_keys of its settings.")
        if wants_admin and not is_admin:
            raise AdminKeyRequired(
                "This route needs one of the admin_keys of the settings, or the Unix socket on the machine itself."
            )
        return Caller(hashed[: len("sha256:") + 16], is_admin)
