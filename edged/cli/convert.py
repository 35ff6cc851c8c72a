"""`edged convert`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from edged.cli.exit_codes import ExitCode, code_of
from edged.cli.follow import follow, run_here, tell_failure
from edged.cli.options import Home, Json
from edged.cli.output import answer, answer_json, duration, say, size
from edged.cli.progress import Show, show_for
from edged.cli.pull import absolute
from edged.cli.target import Target, store_of
from edged.daemon.job import JobEvent, JobKind
from edged.daemon.jobs import CONVERT
from edged.errors import ConfigError, EdgedError
from edged.store import Store, job_folders
from edged.store.conversion import DEFAULT_RECIPE, specify
from edged.store.entries import JobLine, Manifest
from edged.store.lineage import ConversionSpec, agreement_words


def convert(
    source: Annotated[str, Parameter(help="An installed model, ./folder in the form of transformers, ./file.gguf, or "
                                          "org/repo.")],
    /, *,
    adapter: Annotated[list[str] | None, Parameter(help="A LoRA of peft to merge, ./folder or org/repo; may be said "
                                                        "more than once.", negative=())] = None,
    name: Annotated[str | None, Parameter(help="Of the model that gets the new version.")] = None,
    recipe: Annotated[list[str] | None, Parameter(help="How: a shipped recipe or a file of your own; "
                                                       "may be said more than once.", negative=())] = None,
    calibration: Annotated[Path | None, Parameter(help="Text, or JSONL with `text` or `messages`, to calibrate and to "
                                                       "measure on; else edged's own.")] = None,
    tasks: Annotated[Path | None, Parameter(help="JSONL with `prompt` and `answer`, to count right answers.")] = None,
    accept_loss: Annotated[bool, Parameter(help="Serve it even if it lost more than the recipe allows.",
                                           negative="")] = False,
    activate: Annotated[bool, Parameter(help="Serve it once it has proved good.")] = True,
    detach: Annotated[bool, Parameter(help="Leave it to the running daemon; `edged jobs` tells of it.",
                                      negative="")] = False,
    home: Home = None, json: Json = False,
) -> int:
    """Merge adapters into a model, convert and quantize it, measure what that cost, and serve it if it is good.

    A conversion that was interrupted goes on at the stage where it was. ctrl-C cancels it.

    As in:

    ```
    edged convert ./my-finetuned-model --adapter ./my-lora
    edged convert smollm2-135m --recipe cpu-int4 --recipe gguf-q8_0
    edged convert ./my-finetuned-model --tasks tasks.jsonl
    ```
    """
    target = store_of(home)
    worst = ExitCode.OK
    for each in recipe or [DEFAULT_RECIPE]:
        spec = specify(
            absolute(source), name=name, adapters=[absolute(one) for one in adapter or ()], recipe=_recipe(each),
            calibration=_file(calibration), tasks=_file(tasks), accept_loss=accept_loss, activate=activate)
        try:
            if detach:
                _leave(target, spec, json=json)
                continue
            manifest = converted(target, spec, show_for(json=json, stages=True))
        except EdgedError as error:
            if not json:
                raise
            tell_failure(error)
            return code_of(error)
        except KeyboardInterrupt:
            say("interrupted: the conversion was cancelled")
            return ExitCode.INTERRUPTED
        if json:
            answer_json(JobLine(manifest=manifest))
        else:
            tell(manifest, spec)
        if manifest.verdict is not None and not (manifest.verdict.passed or spec.accept_loss):
            worst = ExitCode.NOT_GOOD_ENOUGH
    return worst


def converted(target: Target, spec: ConversionSpec, show: Show) -> Manifest:
    """Through the daemon, or into the settings' store where none runs."""
    with show:
        if target.running is not None:
            return follow(target.running, "/edged/v1/convert", _body(spec), JobKind.CONVERSION, show)
        folder = job_folders.begin(Store(target.settings.home).layout, spec)
        environment = {**os.environ, "EDGED_HOME": str(target.settings.home)}
        return run_here((*CONVERT, str(folder)), environment, JobKind.CONVERSION, show)


def _leave(target: Target, spec: ConversionSpec, *, json: bool) -> None:
    if target.running is None:
        raise ConfigError("--detach leaves the work to a daemon, and none runs; start one with `edged serve`")
    job = target.running.client.post("/edged/v1/convert", _body(spec), JobEvent)
    if json:
        answer_json(job)
    else:
        answer(f"{job.id} is {job.state}; `edged jobs {job.id}` follows it")


def tell(manifest: Manifest, spec: ConversionSpec) -> None:
    """What was made, how good it is, and whether it serves."""
    made, quality = manifest.conversion, manifest.quality
    share = f", {manifest.size / made.base_bytes:.1%} of its 32-bit weights" if made and made.base_bytes else ""
    seconds = sum(stage.seconds for stage in made.stages) if made else 0.0
    answer(f"made {manifest.name}@{manifest.version} ({size(manifest.size)}{share}; {manifest.engine} "
           f"{manifest.precision}) in {duration(seconds)}")
    if quality is not None:
        answer(f"perplexity {quality.perplexity:.2f}, {quality.perplexity_ratio:.3f} times that of "
               f"{quality.reference}; top-1 agreement {quality.top1_agreement:.1%}; KL divergence "
               f"{quality.kl_divergence:.4f} nats ({quality.tokens} tokens of {quality.text})")
    if manifest.agreement is not None:
        answer(agreement_words(manifest.agreement))
    if manifest.never_run:
        answer(f"built for {manifest.target}, never run: it serves only where its self-test passes")
    elif manifest.verdict is not None and manifest.verdict.lacking and not spec.accept_loss:
        answer(f"kept, not activated: {'; '.join(manifest.verdict.lacking)}. `edged activate {manifest.name}@"
               f"{manifest.version}` serves it all the same")
    elif spec.activate:
        answer(f"{manifest.name} is now served from it")


def _body(spec: ConversionSpec) -> dict[str, object]:
    return {
        "source": spec.source, "name": spec.name, "adapters": list(spec.adapters), "recipe": spec.recipe,
        "calibration": spec.calibration, "tasks": spec.tasks, "accept_loss": spec.accept_loss,
        "activate": spec.activate,
    }


def _recipe(said: str) -> str:
    """The name of a shipped one, or the absolute path of a file."""
    return str(Path(said).expanduser().absolute()) if said.endswith(".toml") else said


def _file(path: Path | None) -> str | None:
    return str(path.expanduser().absolute()) if path is not None else None
