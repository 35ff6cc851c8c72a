"""What a person asks of a conversion, made into a `ConversionSpec`: references checked, a name given. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from edged.errors import BadReference
from edged.store.lineage import ConversionSpec
from edged.store.refs import HubReference, LocalReference, NameReference, PackageReference, parse

DEFAULT_RECIPE = "cpu-int4"


def specify(
    source: str, *, name: str | None = None, adapters: Sequence[str] = (), recipe: str = DEFAULT_RECIPE,
    calibration: str | None = None, tasks: str | None = None, accept_loss: bool = False, activate: bool = True,
) -> ConversionSpec:
    """Paths are absolute. Without a name the result is a new version of the installed model that it is made of, or is
    called as its folder or repository is; with adapters it is never a version of the base. Raises BadReference."""
    parsed = parse(source)
    if isinstance(parsed, PackageReference):
        raise BadReference(f"{source} is a package; `edged pull` it first, then convert it by its name")
    if isinstance(parsed, HubReference) and parsed.quant is not None:
        raise BadReference(f"{source}: a conversion starts from the weights in full; leave `:{parsed.quant}` out")
    for path in filter(None, (
            source if isinstance(parsed, LocalReference) else None, calibration, tasks,
            *(each for each in adapters if isinstance(parse(each), LocalReference)))):
        if not PurePosixPath(path).is_absolute():
            raise BadReference(f"{path} must be an absolute path")
    return ConversionSpec(
        name=_checked(name) if name is not None else _name(parsed, adapters), source=source, adapters=tuple(adapters),
        recipe=recipe, calibration=calibration, tasks=tasks, accept_loss=accept_loss, activate=activate)


def _name(base: NameReference | HubReference | LocalReference, adapters: Sequence[str]) -> str:
    return "-".join([base.name, *(parse(adapter).name.rpartition("/")[2] for adapter in adapters)])


def _checked(name: str) -> str:
    parsed = parse(name)
    if isinstance(parsed, LocalReference | PackageReference) or str(parsed) != parsed.name:
        raise BadReference(f"{name!r} cannot be the name of a model: letters, digits and . _ - only")
    return name
