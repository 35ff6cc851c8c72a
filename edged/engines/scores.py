"""What embedders do with their numbers last. Pure."""

from __future__ import annotations

import numpy as np

from edged.engines.base import Vectors


def unit_length(vectors: Vectors) -> Vectors:
    """Each row over its own length; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: Vectors = (vectors / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)
    return result


def sigmoid(values: Vectors) -> Vectors:
    """The probability that a cross-encoder's one output stands for."""
    result: Vectors = (1 / (1 + np.exp(-values.astype(np.float64)))).astype(np.float32)
    return result
