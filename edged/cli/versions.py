"""`edged activate`, `rollback` and `rollout`: which version of a model answers to its name."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from edged.cli.client import model_path
from edged.cli.exit_codes import ExitCode
from edged.cli.options import Home, Json
from edged.cli.output import answer, answer_json, table
from edged.cli.target import Target, daemon, store_of
from edged.daemon.rollout import Verdict
from edged.daemon.rollouts import RolloutStatus, Side
from edged.daemon.status import ModelStatus
from edged.errors import BadReference
from edged.store.entries import Manifest

Versioned = Annotated[str, Parameter(help="NAME@VERSION; the first 4 digits or more of a version will do.")]
Plain = Annotated[str, Parameter(help="An installed model, or an alias.")]


def activate(name: Versioned, /, *, home: Home = None, json: Json = False) -> int:
    """Let another version of a model answer to its name. Requests in flight end on the version they have.

    A daemon loads it first, and stays with the version it serves where that fails.

    As in:

    ```
    edged activate my-model@3f2a
    ```
    """
    target = store_of(home)
    if target.running is not None:
        _tell(target.running.client.post("/edged/v1/activate", {"model": name}, ModelStatus), json=json)
        return ExitCode.OK
    from edged.store import Store

    plain, version = _split(target, name)
    store = Store(target.settings.home)
    if version is None:
        raise BadReference(f"say which version, as in {plain}@{store.active(plain)}; `edged show {plain}` lists them")
    _tell(store.manifest(plain, store.activate(plain, version)), json=json)
    return ExitCode.OK


def rollback(name: Plain, /, *, home: Home = None, json: Json = False) -> int:
    """Go back to the version that was active before; done again, to the one before that.

    As in:

    ```
    edged rollback my-model
    ```
    """
    target = store_of(home)
    if target.running is not None:
        _tell(target.running.client.post("/edged/v1/rollback", {"model": name}, ModelStatus), json=json)
        return ExitCode.OK
    from edged.store import Store

    plain, _ = _split(target, name)
    store = Store(target.settings.home)
    _tell(store.manifest(plain, store.rollback(plain)), json=json)
    return ExitCode.OK


def rollout(
    name: Plain, /, *,
    retry: Annotated[bool, Parameter(help="Try a candidate again that was taken back.", negative="")] = False,
    home: Home = None, json: Json = False,
) -> int:
    """Show how the candidate of a model does beside its active version, and the verdict.

    A candidate is named in models.toml, with its share of the requests for the plain name; one that fails or is slower
    is taken back by itself:

    ```
    [models.my-model]
    candidate = "3f2a"
    share = 0.1
    ```

    As in:

    ```
    edged rollout my-model
    edged rollout my-model --retry
    ```
    """
    client = daemon(home).client
    if retry:
        status = client.post("/edged/v1/rollout", {"model": name, "retry": True}, RolloutStatus)
    else:
        status = client.get(model_path(name, under="rollout"), RolloutStatus)
    if json:
        answer_json(status)
        return ExitCode.OK
    answer(table(
        ("VERSION", "PART", "SHARE", "REQUESTS", "ERRORS", "FIRST TOKEN", "90 %", "LATER TOKEN", "90 %"),
        [_row(status.active, "active", 1 - status.share), _row(status.candidate, "candidate", status.share)]))
    answer(f"{_VERDICTS[status.verdict]}: {status.words}")
    if status.verdict is Verdict.WORSE:
        answer(f"it was taken back; `edged rollout {status.name} --retry` tries it again, as does another candidate in "
               "models.toml")
    elif status.verdict is Verdict.NO_WORSE:
        answer(f"`edged activate {status.name}@{status.candidate.version}` makes it the active version")
    return ExitCode.OK


_VERDICTS = {Verdict.TRYING: "undecided", Verdict.NO_WORSE: "good", Verdict.WORSE: "worse"}


def _row(side: Side, part: str, share: float) -> tuple[str, ...]:
    times = (side.first_token_s, side.first_token_p90_s, side.token_s, side.token_p90_s)
    return (side.version, part, f"{share:.0%}", str(side.requests), str(side.errors),
            *("-" if seconds is None else f"{seconds * 1000:.3g} ms" for seconds in times))


def _tell(now: ModelStatus | Manifest, *, json: bool) -> None:
    if json:
        answer_json(now)
        return
    where = f", {now.state.value} on {now.device}" if isinstance(now, ModelStatus) and now.device else ""
    answer(f"{now.name} is {now.name}@{now.version} now{where}")


def _split(target: Target, said: str) -> tuple[str, str | None]:
    from edged.store.catalog import load_catalog

    name, at, version = load_catalog(target.settings.models_file).resolve_alias(said).rpartition("@")
    return (name, version) if at else (version, None)
