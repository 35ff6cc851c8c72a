"""Engine environments: what may be named, which can be used, and what to do about the others."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from edged.errors import BadReference, DeviceUnavailable, NotFound
from edged.hardware import environment_making, environments
from edged.hardware.environment_making import install, known_requirements, remove
from edged.hardware.environments import (
    KNOWN,
    Environment,
    broken,
    install_command,
    own_packages,
    python_of,
    shared,
    trouble,
)
from edged.hardware.facts import Software

pytestmark = pytest.mark.unit


def ignore(line: str) -> None:
    pass


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "A", "x" * 50, "a b", "built-in"])
def test_a_name_stays_inside_its_folder(tmp_path: Path, name: str) -> None:
    for use in (lambda: python_of(tmp_path, name), lambda: remove(tmp_path, name),
                lambda: install(tmp_path, name, ["onnxruntime"], "1", ignore)):
        with pytest.raises(BadReference, match=r"no name of an engine environment|choose another name"):
            use()


@pytest.mark.parametrize("requirement", [
    "--index-url=http://evil", "-r file", "./folder", "/abs.whl", "git+https://x/y", "x @ https://y/z.whl", "", "a b",
    "pkg==1.0 --pre", "https://x/y.whl"])
def test_only_plain_requirements_reach_pip(tmp_path: Path, requirement: str) -> None:
    with pytest.raises(BadReference, match="no requirement"):
        install(tmp_path, "mine", [requirement], "1", ignore)
    assert not (tmp_path / "engines").exists()


@pytest.mark.parametrize("requirement", ["onnxruntime==1.31.1", "onnxruntime-gpu[cuda]", "x>=1,<2", "numpy", "a~=1.0"])
def test_plain_requirements_are_taken(requirement: str) -> None:
    assert environment_making._REQUIREMENT.fullmatch(requirement)


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(BadReference, match=r"cuda.*llama-vulkan.*--package"):
        install(tmp_path, "mine", [], "1", ignore)
    with pytest.raises(NotFound, match="edged engine install cuda"):
        python_of(tmp_path, "cuda")


def made(home: Path, name: str, **other: object) -> Environment:
    """The files of one that can be used."""
    said = {"requirements": ("x==1",), "edged": "1", "software": Software(), "shared": tuple(shared()), **other}
    about = Environment(name=name, **said)  # type: ignore[arg-type]
    folder = home / "engines" / name
    own_packages(folder).mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(sys.executable)
    (folder / "environment.json").write_bytes(msgspec.json.encode(about))
    return about


def test_unfinished_damaged_and_broken_ones_are_not_used(tmp_path: Path) -> None:
    whole = made(tmp_path, "whole")
    made(tmp_path, "damaged")
    (tmp_path / "engines" / "damaged" / "environment.json").write_text("{")
    made(tmp_path, "broken", shared=("/another/edged",))
    (tmp_path / "engines" / "whole").joinpath("x").mkdir()
    for left in (".whole.new", ".whole.old", "empty"):
        (tmp_path / "engines" / left).mkdir()
    assert environments.environments(tmp_path) == [whole]
    assert environments.names(tmp_path) == ["broken", "damaged", "empty", "whole"]
    assert environments.environments(tmp_path / "nothing") == []
    assert environments.names(tmp_path / "nothing") == []


def test_a_whole_one_gives_its_interpreter(tmp_path: Path) -> None:
    made(tmp_path, "mine")
    assert trouble(tmp_path, "mine") is None
    assert python_of(tmp_path, "mine") == tmp_path / "engines" / "mine" / "bin" / "python"


def test_one_whose_python_is_gone_says_so_and_how_to_make_it_anew(tmp_path: Path) -> None:
    made(tmp_path, "mine", requirements=("onnxruntime==1.31.1", "numpy"))
    python = tmp_path / "engines" / "mine" / "bin" / "python"
    python.unlink()
    python.symlink_to("/usr/bin/python-that-was-here-once")
    with pytest.raises(DeviceUnavailable, match=r"python-that-was-here-once.*"
                       r"`edged engine install mine --package onnxruntime==1\.31\.1 --package numpy` makes it anew"):
        python_of(tmp_path, "mine")


def test_one_of_another_python_or_another_installation_of_edged_is_broken(tmp_path: Path) -> None:
    older = made(tmp_path, "older")
    own_packages(tmp_path / "engines" / "older").rename(tmp_path / "engines" / "older" / "lib" / "python3.1")
    assert "another Python" in str(broken(tmp_path, older))
    assert "installed elsewhere" in str(broken(tmp_path, made(tmp_path, "theirs", shared=("/opt/edged/lib",))))


def test_an_installation_that_is_reached_by_another_path_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(shared()[0])
    assert broken(tmp_path, made(tmp_path, "mine", shared=(str(tmp_path / "link"), "/more"))) is None


def test_a_home_that_was_moved_has_its_environments(tmp_path: Path) -> None:
    made(tmp_path / "home", "mine")
    (tmp_path / "home").rename(tmp_path / "moved")
    assert python_of(tmp_path / "moved", "mine").is_relative_to(tmp_path / "moved")


def test_the_command_that_makes_it_anew(tmp_path: Path) -> None:
    assert install_command("cuda") == "edged engine install cuda"
    assert install_command("mine") == "edged engine install mine --package REQUIREMENT"
    assert install_command("cuda", made(tmp_path, "cuda", known=True)) == "edged engine install cuda"
    assert install_command("cuda", made(tmp_path / "2", "cuda")) == "edged engine install cuda --package x==1"


def test_what_edged_is_written_for_keeps_its_version_and_other_builds_are_the_newest() -> None:
    own = {"onnxruntime": "1.32.0", "onnxruntime-genai": "0.18.0", "llama-cpp-python": "0.3.36"}
    assert known_requirements(KNOWN["cuda"], own) == ("onnxruntime-gpu", "onnxruntime-genai-cuda==0.18.0")
    assert known_requirements(KNOWN["llama-vulkan"], own) == ("llama-cpp-python==0.3.36",)
    assert known_requirements(KNOWN["cuda"], {}) == ("onnxruntime-gpu", "onnxruntime-genai-cuda")
