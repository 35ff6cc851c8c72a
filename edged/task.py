"""What a model is asked to do must be what it is for. Asked in the daemon, before anything is loaded for it, and again
in the worker, which knows what was loaded. Pure."""

from __future__ import annotations

from edged.errors import UnsupportedTask
from edged.types import GenerateRequest, Request, Task

_ASKED: dict[Task, str] = {
    "generate": "it cannot chat or complete text",
    "embed": "it has no embeddings to give",
    "rerank": "it cannot rerank",
}
_IS: dict[Task, str] = {
    "generate": "writes text: POST /v1/chat/completions or /v1/completions",
    "embed": "makes embeddings: POST /v1/embeddings",
    "rerank": "scores documents against a query: POST /v1/rerank",
}


def task_of(request: Request) -> Task:
    if isinstance(request, GenerateRequest):
        return "generate"
    return "embed" if request.query is None else "rerank"


def check_task(request: Request, task: Task, model: str) -> None:
    """Raises UnsupportedTask, which says what the model is for. task: of the model; model: its name."""
    asked = task_of(request)
    if asked != task:
        raise UnsupportedTask(
            f"{model} {_IS[task]}; {_ASKED[asked]}. GET /v1/models tells what each model is for (`edged.kind`)",
            param="model")
