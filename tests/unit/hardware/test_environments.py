"""Engine environments: what may be named, and what an unfinished one leaves."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edged.errors import BadReference, NotFound
from edged.hardware import environments
from edged.hardware.environments import Environment, install, python_of, remove
from edged.hardware.facts import Software

pytestmark = pytest.mark.unit


def ignore(line: str) -> None:
    pass


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "A", "x" * 50, "a b"])
def test_a_name_stays_inside_its_folder(tmp_path: Path, name: str) -> None:
    for use in (lambda: python_of(tmp_path, name), lambda: remove(tmp_path, name),
                lambda: install(tmp_path, name, ["onnxruntime"], "1", ignore)):
        with pytest.raises(BadReference, match="no name of an engine environment"):
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
    assert environments._REQUIREMENT.fullmatch(requirement)


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(BadReference, match=r"cuda.*llama-vulkan.*--package"):
        install(tmp_path, "mine", [], "1", ignore)
    with pytest.raises(NotFound, match="edged engine install cuda"):
        python_of(tmp_path, "cuda")


def test_unfinished_and_damaged_ones_are_not_listed(tmp_path: Path) -> None:
    about = Environment(name="whole", requirements=("x",), edged="1", software=Software())
    for name, content in (("whole", msgspec.json.encode(about)), ("damaged", b"{"), (".whole-abc", b"{}")):
        folder = tmp_path / "engines" / name
        folder.mkdir(parents=True)
        (folder / "environment.json").write_bytes(content)
    assert environments.environments(tmp_path) == [about]
    assert environments.environments(tmp_path / "nothing") == []
