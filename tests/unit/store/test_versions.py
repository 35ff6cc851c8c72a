"""Activating, rolling back, amending; beginnings of versions as their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import BadReference, Conflict, CorruptFile, ModelNotFound
from edged.store import Manifest, Store, history
from edged.store.entries import Activation
from edged.store.lineage import Quality, QualityLimits
from tests.models import contents, fake_folder, install

pytestmark = pytest.mark.unit

QUALITY = Quality(
    reference="fp32", text="shipped 0123456789ab", tokens=1000, kl_divergence=0.02, top1_agreement=0.93,
    perplexity=37.1, reference_perplexity=36.9,
    limits=QualityLimits(perplexity_ratio=1.1, top1_agreement=0.85, kl_divergence=0.1))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


@pytest.fixture
def versions(store: Store, tmp_path: Path) -> list[Manifest]:
    """Three of `tiny`, oldest first; the last one is active."""
    return [install(store, str(fake_folder(tmp_path / "tiny", rows=rows))) for rows in (1, 2, 3)]


def told(store: Store) -> list[tuple[str, str]]:
    return [(each.version, each.by) for each in store.history("tiny")]


def test_the_history_says_what_was_active_and_by_what(store: Store, versions: list[Manifest], tmp_path: Path) -> None:
    one, two, three = (manifest.version for manifest in versions)
    store.activate("tiny", one)
    store.activate("tiny", one)
    store.activate("tiny", two, by="convert")
    install(store, str(fake_folder(tmp_path / "tiny", rows=2)))
    assert told(store) == [
        (one, "pull"), (two, "pull"), (three, "pull"), (one, "activate"), (two, "convert")]
    times = [each.at for each in store.history("tiny")]
    assert times == sorted(times)
    with pytest.raises(ModelNotFound):
        store.history("other")


def test_rolling_back_walks_back_step_by_step_and_says_when_there_is_nothing_left(
    store: Store, versions: list[Manifest],
) -> None:
    one, two, three = (manifest.version for manifest in versions)
    assert [store.rollback("tiny"), store.rollback("tiny")] == [two, one]
    with pytest.raises(Conflict, match=rf"no version of tiny .* before {one}; `edged activate tiny@VERSION`"):
        store.rollback("tiny")
    assert store.active("tiny") == one
    store.activate("tiny", three)
    assert store.rollback("tiny") == one
    assert told(store)[-1] == (one, "rollback")


def test_rolling_back_passes_over_versions_that_are_gone(store: Store, versions: list[Manifest]) -> None:
    store.remove("tiny", versions[1].version)
    assert store.rollback("tiny") == versions[0].version


def test_a_pointer_that_was_moved_without_a_word_is_still_a_step(store: Store, versions: list[Manifest]) -> None:
    """As by an edged that kept no history, which is how older stores are."""
    one, two, three = (manifest.version for manifest in versions)
    store.layout.history("tiny").unlink()
    assert told(store) == [(three, "unknown")]
    store.activate("tiny", two)
    store.layout.active("tiny").write_text(f"{one}\n")
    assert told(store) == [(three, "unknown"), (two, "activate"), (one, "unknown")]
    assert [store.rollback("tiny"), store.rollback("tiny")] == [two, three]


@pytest.mark.parametrize("damage", [b"", b"\0" * 40, b"[{}]", b'[{"version": 1}]'])
def test_a_damaged_history_harms_nothing_else(store: Store, versions: list[Manifest], damage: bytes) -> None:
    store.layout.history("tiny").write_bytes(damage)
    assert store.active("tiny") == versions[2].version
    with pytest.raises(Conflict):
        store.rollback("tiny")
    store.activate("tiny", versions[0].version)
    assert store.rollback("tiny") == versions[2].version


def test_the_history_stays_short(store: Store, versions: list[Manifest]) -> None:
    for number in range(2 * history.MOST):
        store.activate("tiny", versions[number % 2].version)
    assert len(history.decode(store.layout.history("tiny").read_bytes())) == history.MOST
    assert store.rollback("tiny") == versions[0].version


def test_nothing_is_left_of_a_model_that_was_removed(store: Store, versions: list[Manifest]) -> None:
    store.remove("tiny")
    assert [*(store.home / "manifests").iterdir()] == []


def activations(pairs: Sequence[tuple[str, bool]]) -> tuple[Activation, ...]:
    return tuple(Activation(version=version, at=0.0, by="rollback" if back else "activate") for version, back in pairs)


@given(st.lists(st.sampled_from("abcd") | st.none(), max_size=40))
def test_roll_back_is_undo(asked: list[str | None]) -> None:
    """Against a plain stack. None: roll back."""
    done: list[str] = []
    told: tuple[Activation, ...] = ()
    for version in asked:
        if version is None:
            back = history.before(told, "abcd")
            expected = next((each for each in reversed(done[:-1]) if each != done[-1]), None)
            assert back == expected
            if back is None:
                continue
            while done[-1] != back:
                done.pop()
            told = history.extended(told, back, 0.0, "rollback")
        else:
            if not done or done[-1] != version:
                done.append(version)
            told = history.extended(told, version, 0.0, "activate")
        assert told[-1].version == done[-1]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=10), st.sampled_from("abc"))
def test_an_activation_that_died_before_its_pointer_moved_never_was(
    pairs: list[tuple[str, bool]], active: str,
) -> None:
    known = history.effective(activations(pairs), active, 0.0)
    assert known[-1].version == active
    for version in "abc":
        assert history.effective(history.extended(known, version, 1.0, "activate"), active, 0.0)[-1].version == active
    if len(known) > 1 and known[-2].version != known[-1].version:
        recorded = history.extended(known, "d", 1.0, "activate")
        assert history.effective(recorded, active, 0.0) == known
        assert history.effective(recorded, "d", 0.0) == recorded


def test_more_can_be_said_of_a_version_that_is_here(store: Store, versions: list[Manifest]) -> None:
    amended = msgspec.structs.replace(versions[0], quality=QUALITY)
    store.amend(amended)
    assert store.manifest("tiny", versions[0].version) == amended
    assert store.manifest("tiny") == versions[2]
    assert store.verify() == []


def test_amending_changes_no_file(store: Store, versions: list[Manifest], tmp_path: Path) -> None:
    before = contents(store.home)
    one, two, _ = versions
    for wrong in (
        msgspec.structs.replace(two, version=one.version, digest=one.digest),
        msgspec.structs.replace(one, files=two.files),
        msgspec.structs.replace(one, file="other.json"),
    ):
        with pytest.raises((Conflict, CorruptFile)):
            store.amend(wrong)
    other = install(Store(tmp_path / "other"), str(fake_folder(tmp_path / "tiny", rows=9)))
    with pytest.raises(ModelNotFound):
        store.amend(other)
    assert contents(store.home) == before


def test_the_first_digits_of_a_version_name_it(store: Store, versions: list[Manifest]) -> None:
    for manifest in versions:
        for digits in range(4, 13):
            assert store.manifest("tiny", manifest.version[:digits]) == manifest
    assert store.activate("tiny", versions[0].version[:4]) == versions[0].version
    store.remove("tiny", versions[1].version[:5])
    assert len(store.versions("tiny")) == 2


@pytest.mark.parametrize("said", ["xyz", "ABCD", "main", "0" * 13, "../..", "12 4", "12.4", "0" * 5000])
def test_an_unknown_version_lists_what_is_here(store: Store, versions: list[Manifest], said: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        store.manifest("tiny", said)
    assert caught.value.param == "model"
    for manifest in versions:
        assert manifest.version in caught.value.message
    assert f"{versions[2].version} (active)" in caught.value.message
    assert len(caught.value.message) < 300


def test_too_few_digits_name_nothing(store: Store, versions: list[Manifest]) -> None:
    for digits in range(4):
        with pytest.raises(BadReference, match=f"may mean .*{versions[2].version}"):
            store.manifest("tiny", versions[2].version[:digits])


def test_an_ambiguous_beginning_lists_what_it_may_mean(store: Store, versions: list[Manifest]) -> None:
    data = store.layout.manifest("tiny", versions[0].version).read_bytes()
    for version in ("abcd00000001", "abcd10000002"):
        store.layout.manifest("tiny", version).write_bytes(data)
    with pytest.raises(BadReference, match="tiny@abcd may mean abcd00000001 or abcd10000002; say more") as caught:
        store.activate("tiny", "abcd")
    assert caught.value.param == "model"
    assert store.active("tiny") == versions[2].version
