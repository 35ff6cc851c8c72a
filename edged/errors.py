"""The error tree. Each class carries the HTTP status, type and code that a client sees; one place renders them
(`edged.api.errors`).

    EdgedError
    ├── InvalidRequest            400  the caller must change the request
    │   ├── UnsupportedParameter  400  the field is known, but not served here
    │   ├── UnknownParameter      400
    │   ├── MissingParameter      400
    │   ├── ContextLengthExceeded 400
    │   ├── UnsupportedTask       400  the model is for something else (chat of an embedding model)
    │   ├── BadReference          400  not a model reference
    │   └── RefusedFile           400  a file that edged never takes: pickles, links, FIFOs, code
    ├── InvalidApiKey             401
    ├── ForbiddenHost             403
    ├── AdminKeyRequired          403
    ├── NotFound                  404
    │   ├── ModelNotFound         404
    │   └── AdapterNotFound       404  the model has no adapter of that name
    ├── Conflict                  409→422, see the class
    ├── RequestTooLarge           413
    ├── UnsupportedMediaType      415
    ├── HeaderTooLarge            431
    ├── QueueFull                 429
    ├── Internal                  500
    │   ├── LoadFailed            500  the engine refused the model; the message names the file
    │   ├── CorruptFile           500  a stored file is not what its manifest says
    │   ├── ConversionFailed      500  Olive or llama.cpp could not make the model; the message has its reason
    │   └── TrainingFailed        500  a training diverged, or its tool could not do it; the message has its reason
    ├── WorkerDied                502
    ├── SourceUnavailable         502  hub or package index does not answer or answers wrongly
    ├── DeviceUnavailable         503
    ├── ShuttingDown              503
    ├── ModelUnavailable          503  it keeps crashing; the breaker is open
    ├── DeadlineExceeded          504
    ├── InsufficientMemory        507
    ├── InsufficientStorage       507
    └── ConfigError               –    settings or catalog; names file, line and key
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar


class EdgedError(Exception):
    """Base of everything edged raises on purpose. `message` says what to do next and holds no path of the server,
    address or traceback when it can reach an HTTP client."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None
    #: False where a retry of the same request cannot help; rendered as `x-should-retry: false`.
    retry: ClassVar[bool] = True

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else self.default_code
        self.retry_after_s = retry_after_s


class InvalidRequest(EdgedError):
    status = 400
    type = "invalid_request_error"
    default_code = "invalid_value"
    retry = False


class UnsupportedParameter(InvalidRequest):
    default_code = "unsupported_parameter"


class UnknownParameter(InvalidRequest):
    default_code = "unknown_parameter"


class MissingParameter(InvalidRequest):
    default_code = "missing_required_parameter"


class ContextLengthExceeded(InvalidRequest):
    default_code = "context_length_exceeded"


class UnsupportedTask(InvalidRequest):
    """The model is for something else than what was asked of it."""

    default_code = "unsupported_task"


class BadReference(InvalidRequest):
    default_code = "invalid_model_reference"


class RefusedFile(InvalidRequest):
    default_code = "refused_file"


class InvalidApiKey(InvalidRequest):
    status = 401
    default_code = "invalid_api_key"


class ForbiddenHost(InvalidRequest):
    status = 403
    default_code = "forbidden_host"


class AdminKeyRequired(InvalidRequest):
    status = 403
    default_code = "admin_key_required"


class NotFound(InvalidRequest):
    status = 404
    default_code = "not_found"


class ModelNotFound(NotFound):
    default_code = "model_not_found"


class AdapterNotFound(NotFound):
    default_code = "adapter_not_found"

    def __init__(self, model: str, adapter: str, known: Iterable[str]) -> None:
        here = ", ".join(known)
        super().__init__(
            f"{model} has no adapter {adapter[:80]!r}; "
            + (f"it has {here}. " if here else "it has none. ")
            + f"`edged pull ./folder --adapter-of {model}` installs one, and without `adapter` the model answers as it "
              "is", param="adapter")


class Conflict(InvalidRequest):
    """The state does not allow it (a model in use is to be removed). 422, not 409: the official clients retry 409."""

    status = 422
    default_code = "conflict"


class RequestTooLarge(InvalidRequest):
    status = 413
    default_code = "request_too_large"


class UnsupportedMediaType(InvalidRequest):
    status = 415
    default_code = "unsupported_media_type"


class HeaderTooLarge(InvalidRequest):
    status = 431
    default_code = "request_too_large"


class QueueFull(EdgedError):
    status = 429
    type = "rate_limit_error"
    default_code = "queue_full"


class Internal(EdgedError):
    default_code = "internal_error"


class LoadFailed(Internal):
    default_code = "load_failed"
    retry = False


class CorruptFile(Internal):
    default_code = "corrupt_file"
    retry = False


class ConversionFailed(Internal):
    """The tool that a conversion stands on could not make the model; the message has its reason."""

    default_code = "conversion_failed"
    retry = False


class TrainingFailed(Internal):
    """A training came to nothing; the message has its reason and what to change."""

    default_code = "training_failed"
    retry = False


class WorkerDied(EdgedError):
    status = 502
    default_code = "worker_died"


class SuspectRequest(WorkerDied):
    """The same request was running in two deaths of a worker."""

    retry = False


class SourceUnavailable(EdgedError):
    status = 502
    default_code = "source_unavailable"


class DeviceUnavailable(EdgedError):
    status = 503
    default_code = "device_unavailable"
    retry = False


class ShuttingDown(EdgedError):
    status = 503
    default_code = "shutting_down"


class ModelUnavailable(EdgedError):
    status = 503
    default_code = "model_unavailable"


class DeadlineExceeded(EdgedError):
    status = 504
    default_code = "timeout"
    retry = False


class InsufficientMemory(EdgedError):
    status = 507
    default_code = "insufficient_memory"
    retry = False


class InsufficientStorage(EdgedError):
    status = 507
    default_code = "insufficient_storage"
    retry = False


class ConfigError(EdgedError):
    """A mistake in settings or catalog. `str()` is one line: file:line:column: key: what is wrong; what is right."""

    default_code = "invalid_configuration"
    retry = False

    def __init__(
        self, message: str, *, file: str | None = None, line: int | None = None, column: int | None = None,
        key: str | None = None, param: str | None = None, code: str | None = None,
    ) -> None:
        where = ":".join(str(part) for part in (file, line, column) if part is not None)
        super().__init__(": ".join(part for part in (where, key, message) if part), param=param, code=code)
        self.file, self.line, self.column, self.key = file, line, column, key


def revived(
    message: str, *, status: int, type: str, retry: bool, code: str | None, param: str | None = None,
) -> EdgedError:
    """An error of another process, as the class of the tree whose status, type and retry it said, the nearest by code.
    """
    same = [kind for kind in _classes(EdgedError) if (kind.status, kind.type, kind.retry) == (status, type, retry)]
    same.sort(key=lambda kind: kind.default_code != code)
    kind = same[0] if same else InvalidRequest if status < 500 else Internal
    return kind(message, param=param, code=code)


def _classes(root: type[EdgedError]) -> Iterator[type[EdgedError]]:
    yield root
    for child in root.__subclasses__():
        yield from _classes(child)
