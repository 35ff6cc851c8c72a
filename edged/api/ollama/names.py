"""Model names as Ollama writes them, `name:tag`, and as edged does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edged.errors import ModelNotFound

if TYPE_CHECKING:
    from edged.daemon.router import Router

_LATEST = ":latest"


def readings(said: str) -> list[str]:
    """What a name may mean, the first that exists: as it was said; `tiny:latest` as `tiny`; `smollm2:135m` as
    `smollm2-135m`, which is how names are formed here."""
    if said.endswith(_LATEST):
        return [said, said.removesuffix(_LATEST)]
    return [said, said.replace(":", "-")] if ":" in said else [said]


def installed(said: str, router: Router) -> str:
    """The name under which the router knows it. Raises ModelNotFound, which speaks of the name that was said, or of
    the one without `:latest`."""
    for reading in readings(said):
        try:
            router.status(reading)
        except ModelNotFound:
            continue
        return reading
    router.status(said.removesuffix(_LATEST))
    return said


def shown(name: str) -> str:
    """With a tag, which programs written for Ollama expect of a name in a list."""
    return name if ":" in name or "@" in name else name + _LATEST
