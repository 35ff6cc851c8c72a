from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import BadReference, RefusedFile
from edged.store.paths import Layout, checked_relative, name_of, segment_of

pytestmark = pytest.mark.unit

HOME = Path("/home-of-the-store")
layout = Layout(HOME)
hostile = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from(["..", ".", "", "a", "/", "\\", "C:", "\0", "\n", "…", "x" * 300]), max_size=6,
    ).map("/".join),
)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=25))
def test_a_name_is_one_segment_and_reads_back(name: str) -> None:
    segment = segment_of(name)
    assert "/" not in segment
    assert "\0" not in segment
    assert not segment.startswith(".")
    assert name_of(segment) == name


@given(st.sets(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=25), min_size=2, max_size=2))
def test_two_names_never_share_a_segment(names: set[str]) -> None:
    one, other = names
    assert segment_of(one) != segment_of(other)


@pytest.mark.parametrize("name", ["", "x" * 300, "\ud800", "ü" * 100])
def test_a_name_that_no_file_system_takes_is_refused(name: str) -> None:
    with pytest.raises(BadReference):
        segment_of(name)


@given(hostile)
def test_no_path_leads_out_of_the_models_folder(path: str) -> None:
    try:
        built = layout.model_file("a" * 64, path)
    except RefusedFile:
        return
    assert built.is_relative_to(layout.models / ("a" * 64))
    assert ".." not in built.parts
    assert built.relative_to(layout.models / ("a" * 64)).as_posix() == path


@pytest.mark.parametrize("path", [
    "../../x", "/etc/passwd", "a/../../b", "..\\..\\x", "a\\b", "", ".", "a//b", "a/", "./a", "a\0b", "a\nb",
    "\u202egpj.x",
])
def test_hostile_names_are_refused(path: str) -> None:
    with pytest.raises(RefusedFile, match="refuses"):
        checked_relative(path)


@pytest.mark.parametrize("digest", ["a" * 63, "a" * 65, "A" * 64, "g" * 64, "", "../" + "a" * 61, "a" * 64 + "\n"])
def test_a_digest_is_exactly_64_lower_case_hex_digits(digest: str) -> None:
    for build in (layout.blob, layout.model, layout.part, layout.model_lock, layout.blob_lock, layout.pull_lock):
        with pytest.raises(RefusedFile, match="64"):
            build(digest)


@pytest.mark.parametrize("version", ["a" * 11, "a" * 13, "../../../abcd", "active", "A" * 12])
def test_a_version_is_exactly_12_hex_digits(version: str) -> None:
    with pytest.raises(BadReference, match="12"):
        layout.manifest("x", version)
