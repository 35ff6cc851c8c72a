"""`edged models`: what can be pulled, and what of it suits this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from msgspec import Struct

from edged.cli.exit_codes import ExitCode
from edged.cli.installed import installed
from edged.cli.options import Home, Json
from edged.cli.output import answer, answer_json, say, size, styled, table
from edged.cli.target import Target, store_of
from edged.errors import ModelNotFound
from edged.hardware import fit
from edged.hardware.facts import Facts
from edged.hardware.probe import probe
from edged.store.catalog import load_catalog
from edged.store.entries import ModelEntry
from edged.store.preferred import rows


class Form(Struct, frozen=True, kw_only=True):
    """One variant on this machine. memory_bytes: an estimate with `context` tokens; None where it is not known."""

    engine: str
    precision: str
    size: int | None
    fits: bool
    memory_bytes: int | None
    context: int
    reason: str


class Offer(Struct, frozen=True, kw_only=True):
    """One model of the catalog. variants: the one that a pull takes first. unverified: nobody has pulled this entry as
    it stands; the name of its repository or of a file may have changed."""

    name: str
    title: str
    parameters: int | None
    license: str | None
    note: str | None
    unverified: bool
    installed: bool
    fits: bool
    aliases: list[str]
    variants: list[Form]


def models(
    name: Annotated[str | None, Parameter(help="Show all variants of this one.")] = None, /, *,
    everything: Annotated[bool, Parameter(name=("--all", "-a"), help="Also those that do not fit this machine.",
                                          negative="")] = False,
    home: Home = None, json: Json = False,
) -> int:
    """List the models that can be pulled by name, what fits this machine's memory, and which variant it would take.

    Anything else is pulled by reference, as in org/repo:Q4_K_M. Your own models.toml adds models.

    As in:

    ```
    edged models
    edged models qwen3-1.7b
    edged models --all --json
    ```
    """
    facts = probe()
    target = store_of(home)
    budget_bytes = target.settings.memory_bytes
    offers = _offers(target, facts, budget_bytes)
    if name is not None:
        offers = [offer for offer in offers if offer.name == name or name in offer.aliases]
        if not offers:
            raise ModelNotFound(f"the catalog has no model {name!r}; `edged models --all` lists all, and a hub model "
                                "is pulled as org/repo:Q4_K_M")
    if json:
        answer_json(offers)
        return ExitCode.OK
    usable = budget_bytes if budget_bytes is not None else fit.usable_bytes(facts.memory)
    if name is not None:
        _print_one(offers[0])
        return ExitCode.OK
    shown = offers if everything else [offer for offer in offers if offer.fits]
    answer(table(("NAME", "WEIGHTS", "WOULD TAKE", "SIZE", "MEMORY", "", "NOTE"), [_line(offer) for offer in shown]))
    say("")
    say(f"{fit.readable(usable)} of memory can be used for models here. * not pulled by anyone yet as it stands: a "
        "repository or file may be named otherwise by now.")
    if len(shown) < len(offers):
        say(f"{len(offers) - len(shown)} more do not fit; `edged models --all` shows them.")
    return ExitCode.OK


def _offers(target: Target, facts: Facts, budget_bytes: int | None) -> list[Offer]:
    """By size, smallest first."""
    catalog = load_catalog(models_file(target)).current
    here = {row.name for row in installed(target)}
    aliases: dict[str, list[str]] = {}
    for alias, meant in sorted(catalog.aliases.items()):
        aliases.setdefault(meant.partition("@")[0], []).append(alias)
    found = [_offer(entry, facts, budget_bytes, here, aliases.get(entry.name, []))
             for entry in catalog.models.values() if entry.variants]
    return sorted(found, key=lambda offer: (offer.parameters or 0, offer.name))


def models_file(target: Target) -> Path | None:
    """The running daemon's, if this user may read it; a daemon tells all settings but the secret ones."""
    if target.running is None:
        return target.settings.models_file
    told = target.running.client.get("/edged/v1/config", dict[str, object]).get("models_file")
    return Path(told) if isinstance(told, str) else None


def _offer(entry: ModelEntry, facts: Facts, budget_bytes: int | None, here: set[str], aliases: list[str]) -> Offer:
    forms = [
        Form(engine=row.engine, precision=row.variant.precision, size=row.variant.size, fits=row.fits,
             memory_bytes=row.memory_bytes, context=row.context, reason=row.reason)
        for row in rows(entry, facts, budget_bytes)
    ]
    return Offer(
        name=entry.name, title=entry.title, parameters=entry.parameters, license=entry.license, note=entry.note,
        unverified=entry.unverified, installed=entry.name in here, fits=forms[0].fits, aliases=aliases, variants=forms,
    )


def _line(offer: Offer) -> tuple[str, ...]:
    form = offer.variants[0]
    note = "; ".join(part for part in (offer.note, None if form.reason.startswith("fits well") else form.reason)
                     if part)
    return (
        offer.name + ("*" if offer.unverified else ""), _weights(offer.parameters),
        f"{form.engine} {form.precision}", _about(form.size, offer, form),
        fit.readable(form.memory_bytes) if form.memory_bytes is not None else "?",
        "installed" if offer.installed else "", note,
    )


def _about(known: int | None, offer: Offer, form: Form) -> str:
    if known is not None:
        return size(known)
    estimate = fit.weights_bytes(None, offer.parameters, form.precision)
    return f"~{size(estimate)}" if estimate is not None else "?"


def _weights(count: int | None) -> str:
    if count is None:
        return "?"
    return f"{count / 1e9:.1f} B" if count >= 0.95e9 else f"{count / 1e6:.0f} M"


def _print_one(offer: Offer) -> None:
    licence = offer.license or "licence unknown"
    answer(styled(f"{offer.name}: {offer.title}, {_weights(offer.parameters)}, {licence}", "1"))
    if offer.note:
        answer(f"  {offer.note}")
    if offer.unverified:
        answer("  not pulled by anyone yet as it stands: a repository or file may be named otherwise by now")
    if offer.aliases:
        answer(f"  aliases: {', '.join(offer.aliases)}")
    for number, form in enumerate(offer.variants):
        memory = fit.readable(form.memory_bytes) if form.memory_bytes is not None else "?"
        mark = "→" if number == 0 and form.fits else " "
        answer(f" {mark} {form.engine} {form.precision}, {_about(form.size, offer, form)}, {memory} of memory with "
               f"{form.context} tokens: {form.reason}")
    answer(f"  `edged run {offer.name}`" if offer.installed else f"  `edged pull {offer.name}`")
