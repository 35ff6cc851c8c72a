"""The stage of fine-tuning, with what it leaves: in one process, and in two that compute one step together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.data.stage import DATA
from training.finetune.stage import FINETUNE
from training.fit import history
from training.fit.quiet import quiet
from training.opened import open_run
from training.run import Moment, Run, Trained

pytestmark = pytest.mark.real


def a_run(folder: Path, base: Path, finetune: str) -> Run:
    """With its data made. Synthetic rows, some of them preferences."""
    folder.mkdir()
    rows = [{"prompt": f"say number {value}" + " please" * (value % 5), "answer": f"the number is {value % 10}"}
            for value in range(60)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    pairs = [{"prompt": f"number {value}?", "chosen": "yes", "rejected": "no idea"} for value in range(20)]
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(pair) for pair in pairs))
    (folder / "recipe.toml").write_text(
        f'name = "tiny"\nbase = "{base}"\n[data]\ntrain = ["rows.jsonl"]\nvalidation_share = 0.2\n'
        f'[finetune]\nprecision = "fp32"\npatience = 0\n{finetune}')
    run = open_run(folder / "recipe.toml")
    run.begin("data")
    run.mark("data", DATA.key(run), 0.0, DATA.run(run, ignore))
    return run


def ignore(moment: Moment) -> None:
    pass


def tune(run: Run) -> tuple[Trained, list[Moment]]:
    run.begin("finetune")
    told: list[Moment] = []
    made = FINETUNE.run(run, told.append)
    assert isinstance(made, Trained)
    return made, told


def test_an_adapter_and_then_preferences_as_a_folder_that_peft_loads(
    tiny_hf: Path, tmp_path: Path, one_thread: None,
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = a_run(tmp_path / "run", tiny_hf, "epochs = 2\nlearning_rate = 5e-3\nbatch_size = 8\n"
                '[finetune.preferences]\ndata = ["pairs.jsonl"]\nlearning_rate = 5e-3\n')
    made, told = tune(run)
    assert made.kind == "adapter"
    assert made.folder == "finetune/model"
    assert made.examples == 48
    assert made.steps == 12 + 2
    assert made.metrics["validation_loss"] < history.validation(history.read(run.path("finetune")))[0][1]
    assert made.metrics["preference_validation_loss"] < 0.69
    assert {moment.stage for moment in told} == {"finetune", "preferences"}
    folder = run.folder / made.folder
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "chat_template.jinja"} \
        <= {file.name for file in folder.iterdir()}
    assert not (folder / "ref").exists()
    assert not [file.name for file in folder.iterdir() for place in (tmp_path, tiny_hf.parent)
                if str(place).encode() in file.read_bytes()]
    assert made.base == str(tiny_hf)
    with quiet():
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(made.base), str(folder))
    before = (folder / "adapter_model.safetensors").read_bytes()
    again, _ = tune(run)
    assert again == made
    assert (folder / "adapter_model.safetensors").read_bytes() == before
    # Other preferences are learned on top of what was learned before them.
    run.file.path.write_text(run.file.text + "beta = 0.5\n")
    other, told = tune(open_run(run.file.path))
    assert not any("loss" in moment.figures for moment in told if moment.stage == "finetune")
    assert any("loss" in moment.figures for moment in told if moment.stage == "preferences")
    assert other.metrics["validation_loss"] == made.metrics["validation_loss"]
    assert other.metrics["preference_validation_loss"] != made.metrics["preference_validation_loss"]


def test_olives_own_pass_learns_and_goes_on_where_it_was(tiny_hf: Path, tmp_path: Path, one_thread: None) -> None:
    import shutil

    run = a_run(tmp_path / "run", tiny_hf,
                'through = "olive"\nepochs = 2\nlearning_rate = 5e-3\nbatch_size = 8\nevaluations = 4\n')
    made, told = tune(run)
    rows = history.read(run.path("finetune"))
    losses = [loss for _, loss in history.validation(rows)]
    assert made.steps == 12
    assert len(losses) == 4
    assert made.metrics["validation_loss"] == min(losses) < losses[0]
    assert [moment.figures["loss"] for moment in told if "loss" in moment.figures] \
        == pytest.approx([row.loss for row in rows if row.loss is not None], rel=1e-2)
    folder = run.folder / made.folder
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} \
        <= {file.name for file in folder.iterdir()}
    before = (folder / "adapter_model.safetensors").read_bytes()
    checkpoints = run.path("finetune") / "olive" / "checkpoints"
    shutil.rmtree(checkpoints / "checkpoint-12")
    (checkpoints / "checkpoint-12").mkdir()
    (checkpoints / "checkpoint-12" / "trainer_state.json").write_text('{"log_his')
    again, _ = tune(run)
    assert again.metrics == made.metrics
    assert (folder / "adapter_model.safetensors").read_bytes() == before


def test_two_processes_make_the_step_that_one_makes(tiny_hf: Path, tmp_path: Path, one_thread: None) -> None:
    one = a_run(tmp_path / "one", tiny_hf, "epochs = 1\nbatch_size = 48\n")
    two = a_run(tmp_path / "two", tiny_hf, "epochs = 1\nbatch_size = 24\ndevices = 2\n")
    alone, _ = tune(one)
    # What is written into its file meanwhile is for the next run.
    two.file.path.write_text(two.file.text.replace("batch_size = 24", "batch_size = 4"))
    together, told = tune(two)
    assert together.steps == alone.steps == 1
    assert together.examples == alone.examples
    assert any(moment.figures.get("validation_loss") for moment in told)
    first, second = (history.read(run.path("finetune")) for run in (one, two))
    assert second[0].loss == pytest.approx(first[0].loss, rel=1e-4)
    assert second[0].grad_norm == pytest.approx(first[0].grad_norm, rel=1e-3)
    assert second[-1].validation_loss == pytest.approx(first[-1].validation_loss, rel=1e-4)
    assert (two.folder / together.folder / "adapter_model.safetensors").exists()
