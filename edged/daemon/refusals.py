"""Why the daemon does not serve a request or a load, in words that say what to do next."""

from __future__ import annotations

from edged.daemon import policy
from edged.errors import (
    DeviceUnavailable,
    EdgedError,
    InsufficientMemory,
    LoadFailed,
    ModelUnavailable,
    QueueFull,
    ShuttingDown,
    SuspectRequest,
    WorkerDied,
)

SHUTTING_DOWN_RETRY_S = 5.0


def shutting_down() -> ShuttingDown:
    return ShuttingDown("the server is shutting down; send the request again in a moment",
                        retry_after_s=SHUTTING_DOWN_RETRY_S)


def never_fits(shed: policy.Shed) -> InsufficientMemory:
    name = shed.key.partition("@")[0]
    return InsufficientMemory(
        f"{name} needs about {shed.need_bytes >> 20} MiB of memory and {shed.free_bytes >> 20} MiB can be had beside "
        "what is pinned; take a smaller variant or context, unpin a model, or raise memory_bytes"
    )


def unloaded(name: str) -> ModelUnavailable:
    return ModelUnavailable(f"{name} was unloaded; send the request again to load it")


def kept_failing(name: str, last: EdgedError | None) -> ModelUnavailable:
    why = f" ({last.message})" if last else ""
    return ModelUnavailable(
        f"{name} kept failing and is not started again by itself{why}. When the cause is mended, "
        f"`edged load {name}` starts it"
    )


def suspect(name: str) -> SuspectRequest:
    return SuspectRequest(
        f"this request was running both times when the worker of {name} died, so it is not tried again; change it, or "
        "send it to another model")


def queue_full(name: str, count: int, retry_after_s: float) -> QueueFull:
    return QueueFull(
        f"{count} requests run or wait for {name} already; send this one again later (the limit is max_queue in the "
        "server's settings)",
        retry_after_s=retry_after_s,
    )


def died_answering(name: str, reason: str) -> WorkerDied:
    return WorkerDied(f"the worker of {name} died while it answered ({reason}); it is started again: send the request "
                      "again")


def died_before_start(name: str, reason: str) -> WorkerDied:
    return WorkerDied(f"the worker of {name} died three times before it could start this request ({reason})")


def died(name: str, reason: str) -> WorkerDied:
    return WorkerDied(f"the worker of {name} died: {reason}")


def died_loading(name: str, file: str, reason: str) -> LoadFailed:
    return LoadFailed(f"the worker of {name} died while it loaded {file}: {reason}; if the file is damaged, `edged "
                      "verify` tells, and pulling the model again mends it")


def device_lost(name: str, provider: str, reason: str) -> DeviceUnavailable:
    return DeviceUnavailable(
        f"the device of {name} was lost: {reason}. It is loaded again on {provider} or not at all; `edged load {name}` "
        f"takes any device that can run it, and fall_back = true under [models.\"{name}\"] lets it go on by itself")


def fell_back(name: str, provider: str, reason: str) -> WorkerDied:
    return WorkerDied(f"the device of {name} was lost while it answered ({reason}); it goes on without {provider}, on "
                      "the processor: send the request again")


def misplaced(name: str, wanted: str, device: str) -> DeviceUnavailable:
    return DeviceUnavailable(
        f"{name} was to run on {wanted} and runs on {device}, so it does not serve; `edged hardware {name}` shows what "
        "can run it here")
