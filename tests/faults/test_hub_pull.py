"""Pulls from a hub that misbehaves, over real HTTP on loopback."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download

from edged.errors import EdgedError, ModelNotFound, RefusedFile, SourceUnavailable
from edged.store import Store
from edged.store.entries import Catalog, HubSource, JobProgress, ModelEntry, Variant
from edged.store.pull import pull
from tests.hub import Hub
from tests.models import GRAPH, contents, gguf_bytes, ignore

pytestmark = pytest.mark.faults

SIZE = 2_500_000
MODEL = gguf_bytes(1, SIZE)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        running.add("org/tiny", "tiny-Q4_K_M.gguf", MODEL)
        running.add("org/tiny", "tiny-Q8_0.gguf", gguf_bytes(2, 1000))
        running.add("org/tiny", "README.md", b"# tiny")
        running.add("org/tiny", "LICENSE", b"a licence")
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def installed(hub: Hub, store: Store, reference: str = "org/tiny") -> dict[str, bytes]:
    manifest = pull(store, Catalog(), reference, hub=hub.settings, progress=ignore)
    return contents(store.folder(manifest))


def nothing_outside(store: Store) -> bool:
    return [path.name for path in store.home.parent.iterdir()] == [store.home.name]


def test_the_test_hub_is_one_that_huggingface_hub_downloads_from(hub: Hub, tmp_path: Path) -> None:
    assert HfApi(endpoint=hub.url).model_info("org/tiny").sha == hub.commit("org/tiny")
    for name, data in (("tiny-Q4_K_M.gguf", MODEL), ("README.md", b"# tiny")):
        path = hf_hub_download("org/tiny", name, endpoint=hub.url, cache_dir=tmp_path / "cache", token=False)
        assert Path(path).read_bytes() == data


def test_a_pull_pins_the_commit_and_takes_the_usual_quantization(hub: Hub, store: Store) -> None:
    assert installed(hub, store) == {"tiny-Q4_K_M.gguf": MODEL, "LICENSE": b"a licence"}
    manifest = store.manifest("org/tiny")
    assert manifest.source == HubSource(
        repo="org/tiny", files=("LICENSE", "tiny-Q4_K_M.gguf"), revision=hub.commit("org/tiny"))
    assert (manifest.engine, manifest.precision, manifest.file) == ("llama", "Q4_K_M", "tiny-Q4_K_M.gguf")
    assert hub.sent_bytes("tiny-Q4_K_M.gguf") == SIZE


def test_a_quantization_is_a_model_of_its_own(hub: Hub, store: Store) -> None:
    assert "tiny-Q8_0.gguf" in installed(hub, store, "hf.co/org/tiny:q8_0")
    assert store.names() == ["org/tiny:Q8_0"]


def test_pulling_again_fetches_nothing_and_a_new_commit_only_what_changed(hub: Hub, store: Store) -> None:
    installed(hub, store)
    installed(hub, store)
    assert hub.sent_bytes("gguf") == SIZE
    old = store.manifest("org/tiny")
    hub.add("org/tiny", "LICENSE", b"another licence")
    assert installed(hub, store)["LICENSE"] == b"another licence"
    assert hub.sent_bytes("gguf") == SIZE
    assert {manifest.version for manifest in store.versions("org/tiny")} == {old.version, store.active("org/tiny")}


def test_a_catalog_entry_takes_its_files_and_checks_their_hash(hub: Hub, store: Store) -> None:
    variant = Variant(
        engine="llama", precision="Q8_0", source=HubSource(repo="org/tiny", files=("*Q8_0.gguf",)), size=1000,
    )
    catalog = Catalog(models={"tiny": ModelEntry(name="tiny", variants=(variant,), parameters=7, license="MIT")})
    manifest = pull(store, catalog, "tiny", hub=hub.settings, progress=ignore)
    assert (manifest.name, manifest.file, manifest.parameters, manifest.license) == ("tiny", "tiny-Q8_0.gguf", 7, "MIT")


def test_dropped_connections_are_continued_with_ranges_and_nothing_comes_twice(hub: Hub, store: Store) -> None:
    hub.faults.drop_each["tiny-Q4_K_M.gguf"] = 300_000
    assert installed(hub, store)["tiny-Q4_K_M.gguf"] == MODEL
    ranges = [request.headers["range"] for request in hub.requests
              if request.server == "content" and "range" in request.headers]
    assert ranges == [f"bytes={at}-" for at in range(300_000, SIZE, 300_000)]
    assert hub.sent_bytes("tiny-Q4_K_M.gguf") == SIZE


def test_a_pull_that_gave_up_is_continued_by_the_next(hub: Hub, store: Store) -> None:
    hub.faults.drop_each["tiny-Q4_K_M.gguf"] = 1
    hub.faults.content_statuses = []
    with pytest.raises(SourceUnavailable, match="goes on from there"):
        installed(hub, store)
    assert store.names() == []
    [part] = (store.home / "tmp").iterdir()
    had_bytes = part.stat().st_size
    assert had_bytes > 0
    hub.faults.drop_each.clear()
    assert installed(hub, store)["tiny-Q4_K_M.gguf"] == MODEL
    assert hub.requests[-1].headers["range"] == f"bytes={had_bytes}-"
    assert hub.sent_bytes("tiny-Q4_K_M.gguf") == SIZE
    assert list((store.home / "tmp").iterdir()) == []


def test_a_bad_part_of_an_earlier_pull_is_fetched_anew(hub: Hub, store: Store) -> None:
    """A power loss leaves a part whose bytes were never written: zeros of the right length."""
    hub.faults.drop_each["tiny-Q4_K_M.gguf"] = 100_000
    hub.faults.content_statuses = [200]
    hub.faults.no_ranges = True
    with pytest.raises(SourceUnavailable):
        installed(hub, store)
    hub.faults.drop_each.clear()
    hub.faults.no_ranges = False
    [part] = (store.home / "tmp").iterdir()
    part.write_bytes(bytes(100_000))
    assert installed(hub, store)["tiny-Q4_K_M.gguf"] == MODEL
    assert store.verify() == []


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
def test_errors_of_the_server_are_tried_again(hub: Hub, store: Store, status: int) -> None:
    hub.faults.statuses = [status] * 3
    hub.faults.content_statuses = [status] * 2
    assert installed(hub, store)["tiny-Q4_K_M.gguf"] == MODEL


def test_a_hub_that_stays_down_is_said_after_a_few_attempts(hub: Hub, store: Store) -> None:
    hub.faults.statuses = [503] * 50
    with pytest.raises(SourceUnavailable, match="does not answer"):
        installed(hub, store)
    assert len(hub.requests) == 6


def test_a_hub_that_is_not_there_is_said(store: Store) -> None:
    with Hub() as gone:
        settings = gone.settings
    with pytest.raises(SourceUnavailable, match="does not answer"):
        pull(store, Catalog(), "org/tiny", hub=settings, progress=ignore)


def test_a_hub_that_cannot_continue_is_asked_from_the_beginning(hub: Hub, store: Store) -> None:
    hub.faults.drop_each["tiny-Q4_K_M.gguf"] = SIZE - 1
    hub.faults.no_ranges = True
    with pytest.raises(SourceUnavailable):
        installed(hub, store)
    hub.faults.drop_each.clear()
    told: list[JobProgress] = []
    pull(store, Catalog(), "org/tiny", hub=hub.settings, progress=told.append)
    assert max(moment.done_bytes for moment in told) == told[-1].total_bytes == SIZE + len(b"a licence")


@pytest.mark.parametrize("name", ["tiny-Q4_K_M.gguf", "LICENSE"])
def test_wrong_bytes_are_never_installed_and_nothing_is_left_of_them(hub: Hub, store: Store, name: str) -> None:
    hub.faults.wrong_bytes = {name}
    with pytest.raises(SourceUnavailable, match="other bytes"):
        installed(hub, store)
    assert store.names() == []
    assert list((store.home / "tmp").iterdir()) == []
    hub.faults.wrong_bytes.clear()
    assert installed(hub, store)["tiny-Q4_K_M.gguf"] == MODEL


@pytest.mark.parametrize("name", ["tiny-Q4_K_M.gguf", "LICENSE"])
def test_a_body_longer_than_announced_is_cut_off(hub: Hub, store: Store, name: str) -> None:
    hub.faults.longer[name] = 1_000_000
    hub.faults.announce[name] = len(hub.repositories["org/tiny"][name].data)
    assert installed(hub, store)["tiny-Q4_K_M.gguf"] == MODEL


def test_a_body_that_says_it_is_longer_is_not_read(hub: Hub, store: Store) -> None:
    hub.faults.longer["tiny-Q4_K_M.gguf"] = 5_000_000
    with pytest.raises(SourceUnavailable, match=r"announced|more of"):
        installed(hub, store)
    assert hub.sent_bytes("gguf") < 10 * SIZE
    assert store.names() == []


def test_compression_that_nobody_asked_for_is_refused(hub: Hub, store: Store) -> None:
    hub.faults.gzip = {"*"}
    with pytest.raises(SourceUnavailable, match="compressed"):
        installed(hub, store)


@pytest.mark.parametrize("name", [
    "../../x.gguf", "/etc/x.gguf", "a\\..\\x.gguf", "a/../../x.gguf", "..", "x\n.gguf", "a//b.gguf", "./x.gguf",
])
def test_a_hostile_name_ends_the_pull_and_nothing_is_written(hub: Hub, store: Store, name: str) -> None:
    hub.add("org/tiny", name, b"GGUF", lfs=True)
    with pytest.raises(RefusedFile, match="refuses"):
        installed(hub, store)
    assert nothing_outside(store)
    assert store.names() == []
    assert hub.sent_bytes() == 0


@pytest.mark.parametrize("digest", ["a" * 63, "a" * 65, "../" + "a" * 61, "A" * 64, ""])
def test_a_hostile_digest_ends_the_pull_and_nothing_is_written(hub: Hub, store: Store, digest: str) -> None:
    hub.faults.hashes["tiny-Q4_K_M.gguf"] = digest
    with pytest.raises(RefusedFile, match="64"):
        installed(hub, store)
    assert nothing_outside(store)
    assert store.names() == []


@pytest.mark.parametrize("size", [-1, 1 << 70])
def test_a_size_that_cannot_be_is_refused(hub: Hub, store: Store, size: int) -> None:
    hub.faults.sizes["tiny-Q4_K_M.gguf"] = size
    with pytest.raises(EdgedError, match=r"makes no sense|needs"):
        installed(hub, store)
    assert hub.sent_bytes() == 0


def test_pickles_and_code_are_left_out_with_a_word(hub: Hub, store: Store) -> None:
    for name in ("pytorch_model.bin", "modeling_tiny.py", "weights.pt", "run.sh", "adapter_model.pkl"):
        hub.add("org/tiny", name, b"canary", lfs=True)
    told: list[JobProgress] = []
    manifest = pull(store, Catalog(), "org/tiny", hub=hub.settings, progress=told.append)
    assert {entry.path for entry in manifest.files} == {"tiny-Q4_K_M.gguf", "LICENSE"}
    notes = " ".join(moment.note for moment in told if moment.note)
    assert all(name in notes for name in ("pytorch_model.bin", "modeling_tiny.py", "weights.pt", "run.sh"))
    assert not any(request.path.endswith((".bin", ".py", ".pt", ".sh", ".pkl")) for request in hub.requests)


def test_a_pickle_that_a_catalog_names_is_refused(hub: Hub, store: Store) -> None:
    hub.add("org/tiny", "pytorch_model.bin", b"canary", lfs=True)
    source = HubSource(repo="org/tiny", files=("pytorch_model.bin", "tiny-Q8_0.gguf"))
    catalog = Catalog(models={"evil": ModelEntry(
        name="evil", variants=(Variant(engine="llama", precision="x", source=source),))})
    with pytest.raises(RefusedFile, match="pickle"):
        pull(store, catalog, "evil", hub=hub.settings, progress=ignore)


def test_native_code_is_refused_before_the_weights_come(hub: Hub, store: Store) -> None:
    hub.add("org/onnx", "cpu-int4/genai_config.json", b'{"model": {"custom_ops_library": "canary.so"}}')
    hub.add("org/onnx", "cpu-int4/model.onnx", MODEL)
    with pytest.raises(RefusedFile, match="custom_ops_library"):
        installed(hub, store, "org/onnx")
    assert hub.sent_bytes("model.onnx") == 0
    assert list((store.home / "blobs").iterdir()) == []


def test_an_onnx_folder_of_a_repository_stands_at_the_top(hub: Hub, store: Store) -> None:
    hub.add("org/onnx", "cpu-int4/genai_config.json", b"{}")
    hub.add("org/onnx", "cpu-int4/config.json", b'{"auto_map": {}}')
    hub.add("org/onnx", "cpu-int4/model.onnx", GRAPH)
    hub.add("org/onnx", "cpu-int4/model.onnx.data", MODEL)
    assert installed(hub, store, "org/onnx") == {
        "genai_config.json": b"{}", "model.onnx": GRAPH, "model.onnx.data": MODEL}
    assert store.manifest("org/onnx").precision == "int4"


def test_the_token_goes_to_the_hub_and_never_to_where_it_redirects(
    hub: Hub, store: Store, caplog: pytest.LogCaptureFixture,
) -> None:
    canary = "hf_canary_0123456789"
    hub.faults.token = canary
    caplog.set_level(logging.DEBUG)
    settings = replace(hub.settings, token=canary)
    told: list[JobProgress] = []
    pull(store, Catalog(), "org/tiny", hub=settings, progress=told.append)
    by_server = {
        server: {request.headers.get("authorization") for request in hub.requests if request.server == server}
        for server in ("hub", "content")
    }
    assert by_server == {"hub": {f"Bearer {canary}"}, "content": {None}}
    assert not any(canary in str(request.headers) for request in hub.requests if request.server == "content")
    assert canary not in caplog.text + repr(settings) + repr(told)
    assert not any(canary.encode() in data for data in contents(store.home).values())


def test_a_gated_model_says_what_to_do(hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that huggingface_hub would find on this machine is not edged's, and is not sent."""
    hub.faults.token = "hf_of_someone"
    monkeypatch.setenv("HF_TOKEN", "hf_of_someone")
    with pytest.raises(SourceUnavailable, match="HF_TOKEN"):
        installed(hub, store)


@pytest.mark.parametrize("location", [
    "file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x", "https://user@:x/",
])
def test_a_redirect_to_another_scheme_is_not_followed(hub: Hub, store: Store, location: str) -> None:
    hub.faults.location = location
    with pytest.raises(SourceUnavailable, match=r"not followed|no address"):
        installed(hub, store)


def test_a_redirect_circle_ends(hub: Hub, store: Store) -> None:
    hub.faults.location = f"{hub.url}/org/tiny/resolve/main/tiny-Q4_K_M.gguf"
    with pytest.raises(SourceUnavailable, match="circle"):
        installed(hub, store)


def test_an_unknown_repository_or_revision_is_not_found(hub: Hub, store: Store) -> None:
    with pytest.raises(ModelNotFound, match="spelling"):
        installed(hub, store, "org/nobody")
    with pytest.raises(ModelNotFound, match="revision v9"):
        installed(hub, store, "org/tiny@v9")


def test_a_zero_filled_blob_is_found_and_mended_by_the_next_pull(hub: Hub, store: Store) -> None:
    installed(hub, store)
    manifest = store.manifest("org/tiny")
    weights = next(entry for entry in manifest.files if entry.path.endswith(".gguf"))
    store.layout.blob(weights.sha256).write_bytes(bytes(weights.size))
    assert [damage.path for damage in store.verify()] == ["tiny-Q4_K_M.gguf"]
    assert installed(hub, store, "org/tiny")["tiny-Q4_K_M.gguf"] == MODEL
    assert store.verify() == []
    assert store.manifest("org/tiny") == manifest


def test_a_version_by_its_number_is_mended_from_its_own_commit(hub: Hub, store: Store) -> None:
    installed(hub, store)
    old = store.manifest("org/tiny")
    for entry in old.files:
        store.layout.blob(entry.sha256).unlink()
    assert pull(store, Catalog(), f"org/tiny@{old.version}", hub=hub.settings, progress=ignore) == old
    assert store.verify() == []


def test_a_graph_that_reads_elsewhere_ends_the_pull_before_the_weights_come(store: Store, hub: Hub) -> None:
    # ModelProto.graph.initializer.external_data: location = ../x
    hub.add("org/onnx", "model.onnx", b"\x3a\x14\x2a\x12\x6a\x10\x0a\x08location\x12\x04../x")
    hub.add("org/onnx", "genai_config.json", b"{}")
    hub.add("org/onnx", "model.onnx.data", MODEL)
    with pytest.raises(RefusedFile, match=r"model\.onnx is refused"):
        pull(store, Catalog(), "org/onnx", hub=hub.settings, progress=ignore)
    assert not [request for request in hub.requests if request.path.endswith(".data")]
    assert [path for folder in ("blobs", "tmp") for path in (store.home / folder).iterdir()] == []
