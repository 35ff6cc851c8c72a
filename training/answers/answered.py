"""What a stage of answers ended with: frozen structs, no I/O."""

from __future__ import annotations

from msgspec import Struct


class Told(Struct, frozen=True, kw_only=True):
    """Of one teacher, for lineage. model, endpoint: as the recipe names them; digest: of a local model.
    served: what answered, as endpoints name it: of edged name and version."""

    name: str
    model: str
    endpoint: str | None
    digest: str | None
    answers: int
    kept: int
    served: tuple[str, ...] = ()


class Answered(Struct, frozen=True, kw_only=True):
    """digest: sha256 of examples.jsonl. wanted, answers: how many were to come, and came. kept: examples that are
    learned from; same: good answers that said what another said; rejected: by reason. covered: prompts with a kept
    answer, of `prompts`. left_out: prompts of files of their own that are held out for validation or test. cost: of
    all answers, in the currency of the prices. stopped: max_cost was reached."""

    digest: str
    prompts: int
    covered: int
    wanted: int
    answers: int
    kept: int
    same: int
    rejected: dict[str, int]
    left_out: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    stopped: bool
    teachers: tuple[Told, ...]


def words(value: Answered) -> str:
    """In one sentence, for people."""
    why = ", ".join(f"{count} {reason}" for reason, count in sorted(value.rejected.items(), key=lambda one: -one[1]))
    return (f"{value.kept} examples of {value.answers} answers to {value.covered} of {value.prompts} prompts"
            + (f", {value.same} said the same as another" if value.same else "")
            + (f"; rejected: {why}" if why else "") + (f"; cost {value.cost:.4g}" if value.cost else ""))
