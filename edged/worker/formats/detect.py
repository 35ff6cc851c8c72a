"""Which family a model belongs to, by the texts in its chat template."""

from __future__ import annotations

from edged.worker.formats.deepseek import DEEPSEEK, DEEPSEEK_V3_1
from edged.worker.formats.family import Family
from edged.worker.formats.gemma import FUNCTION_GEMMA, GEMMA4
from edged.worker.formats.habits import SAMPLE, Habits
from edged.worker.formats.harmony import HARMONY
from edged.worker.formats.hermes import HERMES, SMOLLM3
from edged.worker.formats.llama3 import LLAMA3
from edged.worker.formats.mistral import MISTRAL_LIST, MISTRAL_NAMED
from edged.worker.formats.phi4 import PHI4
from edged.worker.formats.thinking import Tags

#: The first whose signs are all there; what is more special comes first.
FAMILIES: tuple[Family, ...] = (
    HARMONY, GEMMA4, FUNCTION_GEMMA, DEEPSEEK, DEEPSEEK_V3_1, MISTRAL_NAMED, MISTRAL_LIST, PHI4, LLAMA3, SMOLLM3,
    HERMES,
)
#: Texts of templates whose calls look like a family's and are written otherwise (Qwen3-Coder's XML, GLM's).
_OTHERS = ("<function=", "<arg_key>", "<｜DSML｜")
_TAGS = (
    Tags("[THINK]", "[/THINK]"),
    Tags("<|channel>thought\n", "<channel|>"),
    Tags("<think>", "</think>", "\n", "\n\n"),
)


def family_of(template: str) -> Family | None:
    """None where the template's calls are none that edged reads: such models are taught Hermes' format."""
    if any(other in template for other in _OTHERS):
        return None
    return next((family for family in FAMILIES if all(sign in template for sign in family.signs)), None)


def reads(family: Family, habits: Habits) -> bool:
    """Whether the template really writes calls as the family does, as far as it writes any."""
    if habits.calls is None:
        return family.blind and habits.tools is not None
    if not family.trigger or family.tags is not None:  # an answer that begins with a call; the middle of an answer
        return True
    return any(piece.name == SAMPLE for piece in family.parser(frozenset({SAMPLE})).push(habits.sample).calls)


def tags_of(template: str, family: Family | None) -> Tags | None:
    """The tags around thoughts, where the template knows any."""
    if family is not None and family.tags is not None:
        return family.tags
    return next((tags for tags in _TAGS if tags.closing in template and tags.opening.strip() in template), None)
