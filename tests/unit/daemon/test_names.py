"""What a client may call a model, and what it is told when there is none."""

from __future__ import annotations

import pytest

from edged.daemon.names import resolve
from edged.errors import BadReference, ModelNotFound
from edged.store.entries import Catalog, LocalSource, Manifest, ModelEntry

pytestmark = pytest.mark.unit


class Installed:
    def __init__(self, *manifests: Manifest) -> None:
        self._manifests = manifests

    def names(self) -> list[str]:
        return sorted({manifest.name for manifest in self._manifests})

    def manifest(self, name: str, version: str | None = None) -> Manifest:
        for manifest in self._manifests:
            if manifest.name == name and version in (None, manifest.version):
                return manifest
        if version == "a":
            raise BadReference("may mean one or two", param="model")
        raise ModelNotFound(f"no version {version}; here are {', '.join(self.names())}", param="model")


class Aliases:
    def __init__(self, current: Catalog) -> None:
        self.current = current

    def resolve_alias(self, name: str) -> str:
        return self.current.aliases.get(name, name)


def manifest(name: str, version: str, reference: str) -> Manifest:
    return Manifest(name=name, version=version, digest=version * 4, engine="fake", precision="fake", file="f", files=(),
                    source=LocalSource(path="p"), reference=reference, created=0.0)


NEW = manifest("smollm2-135m", "bbbb", "smollm2-135m")
OLD = manifest("smollm2-135m", "aaaa", "smollm2-135m")
HUB = manifest("org-repo", "cccc", "hf.co/org/repo:Q4_K_M")
STORE = Installed(NEW, OLD, HUB)
CATALOG = Aliases(Catalog(
    models={"smollm2-135m": ModelEntry(name="smollm2-135m"), "qwen3-0.6b": ModelEntry(name="qwen3-0.6b")},
    aliases={"gpt-4o-mini": "smollm2-135m", "old": "smollm2-135m@aaaa", "soon": "qwen3-0.6b"}))


@pytest.mark.parametrize(("said", "expected", "alias_of"), [
    ("smollm2-135m", NEW, None),
    ("smollm2-135m@aaaa", OLD, None),
    ("gpt-4o-mini", NEW, "smollm2-135m"),
    ("old", OLD, "smollm2-135m@aaaa"),
    ("hf.co/org/repo:Q4_K_M", HUB, None),
    ("org/repo:Q4_K_M", HUB, None),
])
def test_names_that_answer(said: str, expected: Manifest, alias_of: str | None) -> None:
    resolved = resolve(said, STORE, CATALOG)
    assert resolved.manifest is expected
    assert resolved.alias_of == alias_of


@pytest.mark.parametrize(("said", "plain"), [
    ("smollm2-135m", True), ("gpt-4o-mini", True), ("org/repo:Q4_K_M", True), ("smollm2-135m@aaaa", False),
    ("old", False),
])
def test_whether_a_version_was_named_is_told(said: str, plain: bool) -> None:
    assert resolve(said, STORE, CATALOG).plain is plain


def test_a_beginning_that_may_mean_several_is_told_as_the_store_says_it() -> None:
    with pytest.raises(BadReference, match="one or two"):
        resolve("smollm2-135m@a", STORE, CATALOG)


@pytest.mark.parametrize(("said", "hint"), [
    ("qwen3-0.6b", "`edged pull qwen3-0.6b` fetches it"),
    ("soon", "an alias of 'qwen3-0.6b'.*`edged pull qwen3-0.6b`"),
    ("smollm2-135", "did you mean 'smollm2-135m'"),
    ("smollm2-135m@dddd", "no version dddd; here are org-repo, smollm2-135m"),
    ("gpt-5", r'under \[aliases\]: "gpt-5" = "org-repo"'),
    ("@", "does not exist"),
    ("", "does not exist"),
    ("x" * 5000, "^the model 'x{100}'… does not exist"),
])
def test_names_that_do_not_answer_say_what_to_do(said: str, hint: str) -> None:
    with pytest.raises(ModelNotFound, match=hint) as caught:
        resolve(said, STORE, CATALOG)
    assert caught.value.param == "model"
