"""`edged config`: the settings in force, and where each came from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from edged.cli.exit_codes import ExitCode
from edged.cli.options import Json
from edged.cli.output import answer, answer_json, table
from edged.errors import ModelNotFound
from edged.settings import describe_settings, load_settings, plain, shown


def config(
    *,
    file: Annotated[Path | None, Parameter(name="--config", help="Another configuration file.")] = None,
    models: Annotated[str | None, Parameter(help="Print this model's catalog entry instead, your own models.toml "
                                                 "merged in.")] = None,
    describe: Annotated[bool, Parameter(help="Say what each setting is for.", negative="")] = False,
    json: Json = False,
) -> int:
    """Show the settings that `edged serve` would use here, and where each came from. Secrets are not shown.

    As in:

    ```
    edged config
    edged config --describe
    edged config --models smollm2-135m
    ```
    """
    settings, origins = load_settings({"config": file})
    if models is not None:
        from edged.store.catalog import load_catalog

        entry = load_catalog(settings.models_file).entry(models)
        if entry is None:
            raise ModelNotFound(f"the catalog has no model {models!r}; `edged models --all` lists all")
        answer_json(entry)
        return ExitCode.OK
    infos = describe_settings()
    if json:
        told: dict[str, Any] = {
            info.name: {
                "value": plain(settings, info.name),
                "origin": str(origins[info.name]), "environment": info.environment, "flag": info.flag,
                "description": info.description,
            } for info in infos
        }
        answer_json(told)
    elif describe:
        for info in infos:
            answer(f"{info.name}: {info.description}\n  {info.type}; default {info.default or 'none'}; "
                   f"{' or '.join(info.environment)}; {info.flag}")
    else:
        answer(table(("SETTING", "VALUE", "FROM"), [
            (info.name, shown(settings, info.name) or "-", str(origins[info.name])) for info in infos]))
    return ExitCode.OK
