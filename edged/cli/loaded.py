"""`edged ps`, `load` and `unload`: what the daemon has in memory."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from edged.cli.exit_codes import ExitCode
from edged.cli.installed import Statuses
from edged.cli.options import Home, Json
from edged.cli.output import answer, answer_json, duration, size, table
from edged.cli.target import daemon
from edged.daemon.status import ModelStatus

CAPTURED = "its answers are captured for training, with what was asked (`edged captured list`)"

Name = Annotated[str, Parameter(help="An installed model, name@version, or an alias.")]


def ps(*, home: Home = None, json: Json = False) -> int:
    """List the models that are loaded, loading or broken, and the device that really runs each.

    As in:

    ```
    edged ps
    ```
    """
    models = daemon(home).client.get("/edged/v1/ps", Statuses).models
    if json:
        answer_json(models)
    elif not models:
        answer("no model is loaded; the first request loads one, or `edged load NAME`")
    else:
        answer(table(
            ("NAME", "STATE", "ENGINE", "BUILD", "DEVICE", "CONTEXT", "RUNNING", "WAITING", "MEMORY", "SHARE",
             "UNLOADS"),
            [(f"{each.name}@{each.version}", each.state.value, f"{each.engine} {each.precision}", _build(each),
              each.device or "-", str(each.context or "-"), str(each.running), str(each.waiting),
              size(each.resident_bytes) if each.resident_bytes else "-", _share(each), _unloads(each))
             for each in models],
        ))
        for each in models:
            if told := memory_told(each):
                answer(f"{each.name}: {told}")
            if each.captured:
                answer(f"{each.name}: {CAPTURED}")
            for line in (each.error, *each.notes):
                if line:
                    answer(f"{each.name}: {line}")
            if each.tuning is not None and each.tuning.chosen:
                answer(f"{each.name}: tuned to {each.tuning.words()}")
    return ExitCode.OK


def memory_told(model: ModelStatus) -> str | None:
    """How long it took to load, and what its KV takes now, in each row and at most; None of one that is not loaded."""
    if model.load_s is None:
        return None
    told = f"loaded in {model.load_s:.1f} s{', again after a restart' if model.reloaded else ''}"
    if model.kv_bytes and model.rows and model.context:
        token = model.kv_bytes_per_token
        told += (f"; KV {size(round(token))} a token, {size(round(token * model.kv_used_tokens))} held now, grows to "
                 f"{size(round(token * model.context))} a row of {model.context} tokens and {size(model.kv_bytes)} in "
                 f"all {model.rows} rows")
    return told


def _build(model: ModelStatus) -> str:
    """Of the engine, as it attests itself, and where it is installed."""
    return (model.engine_version or "-") + (f" ({model.environment})" if model.environment else "")


def _share(model: ModelStatus) -> str:
    """Of the requests for the plain name, while a candidate is tried."""
    if model.share is None:
        return "-"
    return f"{model.share:.0%}{' (candidate)' if model.candidate else ''}"


def _unloads(model: ModelStatus) -> str:
    if model.pinned:
        return "never (pinned)"
    if model.keep_alive_s < 0:
        return "never"
    if model.idle_s is None:
        return f"{duration(model.keep_alive_s)} after the last request"
    return f"in {duration(max(0.0, model.keep_alive_s - model.idle_s))}"


def load(
    name: Name, /, *,
    keep_alive: Annotated[float | None, Parameter(help="Unload it after this many idle seconds; -1 never.",
                                                  allow_leading_hyphen=True)] = None,
    pin: Annotated[bool | None, Parameter(help="Keep it loaded whatever else is asked for, or no longer.")] = None,
    home: Home = None, json: Json = False,
) -> int:
    """Load a model now, so that the first request does not wait. One that kept crashing is tried again.

    As in:

    ```
    edged load smollm2-135m --pin
    edged load smollm2-135m --keep-alive -1
    ```
    """
    body: dict[str, Any] = {"model": name}
    if keep_alive is not None:
        body["keep_alive"] = keep_alive
    if pin is not None:
        body["pin"] = pin
    status = daemon(home).client.post("/edged/v1/load", body, ModelStatus)
    if json:
        answer_json(status)
    else:
        answer(f"{status.name}@{status.version} is {status.state.value} on {status.device} (context {status.context}, "
               f"{size(status.resident_bytes)}, loaded in {status.load_s or 0:.1f} s)")
    return ExitCode.OK


def unload(
    name: Name, /, *,
    force: Annotated[bool, Parameter(help="End its requests instead of waiting for them.", negative="")] = False,
    home: Home = None, json: Json = False,
) -> int:
    """Unload a model once its requests have ended. A later request loads it again.

    As in:

    ```
    edged unload smollm2-135m
    ```
    """
    status = daemon(home).client.post("/edged/v1/unload", {"model": name, "force": force}, ModelStatus)
    if json:
        answer_json(status)
    else:
        answer(f"{status.name}@{status.version} is {status.state.value}")
    return ExitCode.OK
