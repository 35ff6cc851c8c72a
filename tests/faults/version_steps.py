"""What changes the versions of a past store's `tiny`, whose active version is NEW: small steps to be cut short."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from edged.store import Store
from edged.store.lineage import Quality, QualityLimits

OLD, NEW = "ba65d8c43ede", "ff0d29d32918"
QUALITY = Quality(
    reference="fp32", text="shipped 0123456789ab", tokens=1000, kl_divergence=0.5, top1_agreement=0.5,
    perplexity=60.0, reference_perplexity=36.9,
    limits=QualityLimits(perplexity_ratio=1.1, top1_agreement=0.85, kl_divergence=0.1), lacking=("perplexity 1.63",))


def amend(store: Store) -> None:
    store.amend(replace(store.manifest("tiny", OLD), quality=QUALITY))


def activate(store: Store) -> None:
    store.activate("tiny", OLD)


def roll_back(store: Store) -> None:
    store.rollback("tiny")


def migrate(store: Store) -> None:
    """Done by opening it."""


STEPS: dict[str, Callable[[Store], None]] = {
    "amend": amend, "activate": activate, "roll_back": roll_back, "migrate": migrate}
