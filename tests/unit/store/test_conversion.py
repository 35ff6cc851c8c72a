"""What is asked of a conversion, and its folder."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edged.daemon.jobs import wanted_conversions
from edged.errors import BadReference
from edged.store import Store, job_folders
from edged.store.conversion import specify
from edged.store.entries import FileEntry, LocalSource, Manifest
from edged.store.lineage import AdapterSource, Conversion, ConvertedSource

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("source", "adapters", "name"), [
    ("smollm2-135m", (), "smollm2-135m"),
    ("smollm2-135m@0123456789ab", (), "smollm2-135m"),
    ("org/repo@main", (), "org/repo"),
    ("/models/My Fine Tune", (), "My-Fine-Tune"),
    ("/models/some.gguf", (), "some"),
    ("/models/base", ("/adapters/polite",), "base-polite"),
    ("smollm2-135m", ("/adapters/polite", "org/short"), "smollm2-135m-polite-short"),
])
def test_the_result_is_named_after_what_it_is_made_of(source: str, adapters: tuple[str, ...], name: str) -> None:
    assert specify(source, adapters=adapters).name == name


@pytest.mark.parametrize(("wrong", "words"), [
    ({"source": "./folder"}, "absolute"), ({"source": "org/repo:Q4_K_M"}, "leave `:Q4_K_M` out"),
    ({"source": "pypi:dist==1.0#model.gguf"}, "pull` it first"), ({"source": "x", "adapters": ("../a",)}, "absolute"),
    ({"source": "x", "calibration": "text.jsonl"}, "absolute"), ({"source": "x", "name": "./x"}, "name of a model"),
    ({"source": "x", "name": "x@0123456789ab"}, "name of a model"), ({"source": "x y"}, "no model reference"),
])
def test_what_cannot_be_converted_is_refused_with_what_would_be_right(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(BadReference, match=words):
        specify(**wrong)  # type: ignore[arg-type]


def test_a_job_is_unfinished_until_it_has_a_result(tmp_path: Path) -> None:
    layout = Store(tmp_path).layout
    spec = specify("some-model", recipe="cpu-int4")
    folder = job_folders.begin(layout, spec)
    assert job_folders.begin(layout, spec) == folder
    assert job_folders.unfinished(layout) == [spec]
    (folder / "merge").mkdir()
    job_folders.abandon(layout, folder)
    assert job_folders.unfinished(layout) == []
    result = job_folders.result_of(folder)
    assert result is not None
    assert result.state == "cancelled"
    job_folders.begin(layout, spec)
    assert job_folders.unfinished(layout) == [spec]


def test_jobs_that_differ_in_anything_are_other_jobs() -> None:
    said = [specify("m"), specify("m", recipe="other"), specify("m", accept_loss=True), specify("m", activate=False),
            specify("m", name="n"), specify("m", tasks="/t"), specify("m", calibration="/c"),
            specify("m", adapters=["/a"]), specify("m", adapters=["/a", "/b"]), specify("m", adapters=["/b", "/a"])]
    assert len({job_folders.identity(spec) for spec in said}) == len(said)


def test_odd_folders_among_the_jobs_are_no_jobs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "jobs" / "empty").mkdir()
    broken = tmp_path / "jobs" / "broken"
    broken.mkdir()
    (broken / job_folders.SPEC_FILE).write_text("{")
    assert job_folders.unfinished(store.layout) == []


def test_a_long_log_is_cut_at_a_line(tmp_path: Path) -> None:
    (tmp_path / job_folders.LOG_FILE).write_text("".join(f"line {number}\n" for number in range(1000)))
    tail = job_folders.log_tail(tmp_path, 100)
    assert tail.startswith("line ")
    assert tail.endswith("line 999\n")
    assert len(tail) <= 100


def manifest(version: str, *, base: str | None = None, recipe: str = "", adapters: bool = False) -> Manifest:
    merged = (AdapterSource(reference="/a", sha256="3" * 64),) if adapters else ()
    return Manifest(
        name="m", version=version * 12, digest=version * 64, engine="fake", precision="fake", file="f",
        files=(FileEntry(path="f", size=1, sha256="0" * 64),), reference="m", created=float(version),
        source=LocalSource(path="/m") if base is None
        else ConvertedSource(base=base, base_digest="0" * 64, adapters=merged),
        conversion=None if base is None else Conversion(recipe=recipe))


def test_the_catalog_wants_each_recipe_of_the_version_that_was_pulled_last() -> None:
    old, new = manifest("1"), manifest("2")
    of_old = manifest("3", base=f"m@{old.version}", recipe="a")
    of_new = manifest("4", base=f"m@{new.version}", recipe="a")
    merged = manifest("5", base=f"m@{new.version}", recipe="b", adapters=True)

    def wanted(*versions: Manifest) -> list[tuple[str, str]]:
        return [(spec.source, spec.recipe) for spec in wanted_conversions("m", ("a", "b"), versions)]

    assert wanted(old) == [(f"m@{old.version}", "a"), (f"m@{old.version}", "b")]
    assert wanted(old, new, of_old) == [(f"m@{new.version}", "a"), (f"m@{new.version}", "b")]
    assert wanted(old, new, of_new, merged) == [(f"m@{new.version}", "b")]
    assert wanted() == []
    assert msgspec.json.decode(msgspec.json.encode(of_new), type=Manifest) == of_new
