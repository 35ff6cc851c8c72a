"""All scenes in the order in which they run, and the digest that tells whether two runs asked the same things."""

from __future__ import annotations

import hashlib
import json

from bench.proof import answers, box, disturbance, prefixes, rates
from bench.proof.scene import Scene, Sizes
from bench.proof.sides import CONTEXT, ROWS

SCENES: tuple[Scene, ...] = (
    box.BANDWIDTH, rates.SINGLE, rates.STREAMS, rates.LONG_STREAMS, answers.STRUCTURED, answers.REPEATING,
    prefixes.SHARED, prefixes.RESTART, prefixes.AGENTS, disturbance.LONG_PROMPT, disturbance.FOREIGN, box.ROTATION,
    rates.DAEMON,
)
PLACES = {scene.name: place for place, scene in enumerate(SCENES)}


def digest(sizes: Sizes) -> str:
    """12 hex digits over every body of the first round of every scene, the same where the same things were asked."""
    asked = [[scene.name, list(scene.bodies(scene.ask(sizes, 0, PLACES[scene.name])))] for scene in SCENES]
    return hashlib.sha256(json.dumps([ROWS, CONTEXT, asked]).encode()).hexdigest()[:12]
