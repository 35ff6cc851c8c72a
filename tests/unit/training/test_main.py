from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.cli.exit_codes import ExitCode, NoDaemon
from edged.cli.exit_codes import code_of as code_of_commands
from edged.errors import ConfigError, EdgedError
from tests.hf_folders import hf_files, put
from training import endings, opened
from training.__main__ import main
from training.models import base_folder

pytestmark = pytest.mark.unit

HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "optuna", "sklearn", "matplotlib", "numpy",
         "pyarrow", "safetensors")


def classes(root: type[EdgedError] = EdgedError) -> Iterator[type[EdgedError]]:
    yield root
    for child in root.__subclasses__():
        yield from classes(child)


def test_a_training_ends_with_the_exit_codes_of_edged() -> None:
    for kind in classes():
        if kind is not NoDaemon and not kind.__init__.__qualname__.startswith("AdapterNotFound"):
            assert endings.code_of(kind("x")) == code_of_commands(kind("x"))
    assert endings.NOT_GOOD_ENOUGH == ExitCode.NOT_GOOD_ENOUGH
    assert endings.INTERRUPTED == ExitCode.INTERRUPTED


def test_a_mistake_in_the_recipe_is_told_with_its_place(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    (tmp_path / "r.toml").write_text('name = "home"\nbase = "x"\n[data]\ntrain = ["a"]\nformm = "chat"\n')
    assert main(["run", "--recipe", str(tmp_path / "r.toml"), "--json"]) == ExitCode.USAGE
    error = json.loads(capsysbinary.readouterr().out)["error"]
    assert f"{tmp_path / 'r.toml'}:5" in error["message"]
    assert "form" in error["message"]


MEMBER = 'name = "lights"\nbase = "smollm2-135m"\n[data]\ntrain = ["a"]\n[finetune]\n[deploy]\n'


@pytest.mark.parametrize(("change", "words"), [
    (("smollm2-135m", "./other"), "has the base ./other"),
    (("[finetune]\n[deploy]\n", ""), "trains no adapter"),
    (("[finetune]\n", '[finetune]\nmethod = "full"\n'), "trains no adapter"),
])
def test_a_member_that_is_no_adapter_of_the_same_base_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], words: str,
) -> None:
    (tmp_path / "lights.toml").write_text(MEMBER.replace(*change))
    (tmp_path / "all.toml").write_text('name = "all"\nbase = "smollm2-135m"\nmembers = ["lights.toml"]\n[deploy]\n')
    assert main(["run", "--recipe", str(tmp_path / "all.toml")]) == ExitCode.USAGE
    told = capsys.readouterr().err
    assert "lights.toml" in told
    assert words in told


def test_members_that_name_themselves_or_each_other_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    group = 'name = "{0}"\nbase = "b"\nmembers = ["{1}.toml"]\n[deploy]\n'
    for name, member in (("own", "own"), ("one", "other"), ("other", "one")):
        (tmp_path / f"{name}.toml").write_text(group.format(name, member))
    for name in ("own", "one"):
        assert main(["run", "--recipe", str(tmp_path / f"{name}.toml")]) == ExitCode.USAGE
        assert "has members itself" in capsys.readouterr().err


@pytest.mark.parametrize(("members", "more", "words"), [
    ({"one": ""}, 'members = ["one.toml", "./one.toml"]', "one.toml is named twice"),
    ({"one": "", "other": ""}, 'members = ["one.toml", "other.toml"]',
     "other.toml has the name lights, and so has one.toml"),
    ({"one": 'folder = "here"', "other": 'name = "timers"\nfolder = "./here"'}, 'members = ["one.toml", "other.toml"]',
     "and so has one.toml; give one of them another `folder`"),
    ({"one": 'folder = "runs/all"'}, 'members = ["one.toml"]', "and so has all.toml; give one of them another"),
])
def test_members_that_could_not_be_told_apart_are_refused(
    tmp_path: Path, members: dict[str, str], more: str, words: str,
) -> None:
    for name, said in members.items():
        member = MEMBER.replace('name = "lights"\n', "") if "name" in said else MEMBER
        (tmp_path / f"{name}.toml").write_text(f"{said}\n{member}")
    (tmp_path / "all.toml").write_text(f'name = "all"\nbase = "smollm2-135m"\n{more}\n[deploy]\n')
    with pytest.raises(ConfigError, match=words) as raised:
        opened.open_run(tmp_path / "all.toml")
    assert "all.toml:3" in str(raised.value)


@pytest.mark.parametrize("table", [
    "[finetune]", "[distil.student]", "[search.ranges]\n'finetune.rank' = {low = 1, high = 2}",
    "[evaluate]\nlimit = 5",
])
def test_what_a_group_would_not_do_is_refused(tmp_path: Path, table: str) -> None:
    (tmp_path / "lights.toml").write_text(MEMBER)
    group = f'name = "all"\nbase = "smollm2-135m"\nmembers = ["lights.toml"]\n[deploy]\n{table}\n'
    (tmp_path / "all.toml").write_text(group)
    with pytest.raises(ConfigError, match="as their own recipes say") as raised:
        opened.open_run(tmp_path / "all.toml")
    assert "all.toml:5" in str(raised.value)


REFUSED = [
    ('[evaluate]\nmetrics = ["rouge", "judge"]', "evaluate.metrics", "who judges"),
    ('[evaluate]\nprimary = "judge"', "evaluate.primary", "who judges"),
    ('[finetune]\nthrough = "olive"\nmethod = "qlora"\npacking = true\ndevices = 2\n[finetune.preferences]',
     "finetune.through", "qlora.*packing, preferences, devices above 1"),
    ("[deploy]", "deploy", "nothing is trained"),
    ('[finetune]\nmethod = "full"\n[export]\nadapter = "keep"', "export.adapter", "none is trained here"),
    ('[distil.student]\n[export]\nadapter = "keep"', "export.adapter", "none is trained here"),
]


@pytest.mark.parametrize(("said", "key", "words"), REFUSED)
def test_a_recipe_that_contradicts_itself_is_refused_as_it_is_read(
    tmp_path: Path, said: str, key: str, words: str,
) -> None:
    (tmp_path / "r.toml").write_text(f'name = "home"\nbase = "x"\n[data]\ntrain = ["a"]\n{said}\n')
    with pytest.raises(ConfigError, match=words) as raised:
        opened.open_run(tmp_path / "r.toml")
    assert str(tmp_path / "r.toml") in str(raised.value)
    assert key in str(raised.value)


def test_a_recipe_that_deploys_merged_weights_alone_keeps_its_adapter_in_a_group(tmp_path: Path) -> None:
    (tmp_path / "lights.toml").write_text(MEMBER)
    (tmp_path / "all.toml").write_text('name = "all"\nbase = "smollm2-135m"\nmembers = ["lights.toml"]\n[deploy]\n')
    alone = opened.open_run(tmp_path / "lights.toml")
    [member] = opened.members(opened.open_run(tmp_path / "all.toml"))
    assert member.folder == alone.folder
    assert (alone.recipe.export.adapter, member.recipe.export.adapter) == ("merge", "keep")
    assert alone.recipe.deploy is not None
    assert member.recipe.deploy is None


def test_what_was_brought_of_a_base_goes_once_it_is_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("EDGED_HOME", str(tmp_path / "no-store"))
    put(tmp_path / "base", hf_files())
    (tmp_path / "home.toml").write_text('name = "home"\nbase = "./base"\n[data]\ntrain = ["a.jsonl"]\n[finetune]\n')
    (tmp_path / "a.jsonl").write_text('{"text": "nothing that can be learned"}\n')
    old = base_folder(opened.open_run(tmp_path / "home.toml"))
    for base in (hf_files(), hf_files(hidden_size=2)):
        assert old.is_dir()
        (tmp_path / "base" / "config.json").write_bytes(base["config.json"])
        assert main(["run", "--recipe", str(tmp_path / "home.toml")]) == ExitCode.USAGE
        assert "a.jsonl" in capsys.readouterr().err
    assert not old.exists()


def test_help_loads_no_heavy_library() -> None:
    code = ("import sys\nimport training.recipe, training.chain, training.show, training.plan\n"
            "from training.__main__ import main\n"
            "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
            f"print(sorted(set({HEAVY!r}) & set(sys.modules)))")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "finetune" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "[]"
