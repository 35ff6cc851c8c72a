"""The similarity of prompts by its definition, to compare with what is found."""

from __future__ import annotations

from fractions import Fraction

from training.data.near import Shingles


def similarity(one: Shingles, other: Shingles) -> Fraction:
    """|one ∩ other| / |one ∪ other|."""
    common = len(one & other)
    return Fraction(common, len(one) + len(other) - common)
