from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edged import settings as subject
from edged.errors import ConfigError
from edged.settings import (
    Origin,
    Settings,
    describe,
    describe_settings,
    hash_key,
    load_settings,
    require_keys,
    shown,
)

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of the machine that runs the tests."""
    for name in list(os.environ):
        if name.startswith(("EDGED_", "HF_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(subject, "SYSTEM_CONFIG", tmp_path / "none.toml")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)


def load(
    tmp_path: Path, text: str | None = None, environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> tuple[Settings, dict[str, Origin]]:
    with pytest.MonkeyPatch.context() as patch:
        if text is not None:
            (tmp_path / "edged.toml").write_text(text)
            patch.setenv("EDGED_CONFIG", str(tmp_path / "edged.toml"))
        for name, value in (environment or {}).items():
            patch.setenv(name, value)
        loaded, origins = load_settings(flags)
        return loaded, origins


def mistake(
    tmp_path: Path, text: str | None = None, environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, environment, flags)
    assert "\n" not in str(caught.value)
    return caught.value


def test_defaults_are_those_of_the_contract(tmp_path: Path) -> None:
    settings, origins = load(tmp_path)
    assert (settings.host, settings.port) == ("127.0.0.1", 8343)
    assert settings.home == tmp_path / "user/.local/share/edged"
    assert settings.socket == settings.home / "edged.sock"
    assert settings.models_file == tmp_path / "user/.config/edged/models.toml"
    assert settings.hf_endpoint == "https://huggingface.co"
    assert settings.api_keys == ()
    assert {str(origin) for origin in origins.values()} == {"default"}


def test_later_sources_win_and_each_value_knows_its_origin(tmp_path: Path) -> None:
    text = 'host = "127.0.0.2"\nport = 1\nlog_level = "debug"\ngrace_s = 5\n'
    environment = {"EDGED_PORT": "2", "EDGED_LOG_LEVEL": "error"}
    settings, origins = load(tmp_path, text, environment, {"log_level": "info", "port": None})
    assert (settings.host, settings.port, settings.log_level, settings.grace_s) == ("127.0.0.2", 2, "info", 5.0)
    told = {name: str(origins[name]) for name in ("host", "port", "log_level", "grace_s", "home")}
    assert told == {
        "host": f"{tmp_path}/edged.toml:1", "port": "EDGED_PORT", "log_level": "--log-level",
        "grace_s": f"{tmp_path}/edged.toml:4", "home": "default",
    }


def test_the_flag_config_names_the_file_before_the_environment(tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text("port = 5\n")
    settings, _ = load(tmp_path, "port = 4\n", flags={"config": str(other)})
    assert settings.port == 5


def test_the_system_file_is_read_where_it_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc.toml").write_text("port = 6\n")
    monkeypatch.setattr(subject, "SYSTEM_CONFIG", tmp_path / "etc.toml")
    assert load_settings()[0].port == 6


def test_a_named_file_that_is_missing_is_a_mistake(tmp_path: Path) -> None:
    error = mistake(tmp_path, flags={"config": str(tmp_path / "no.toml")})
    assert str(error).startswith(f"{tmp_path}/no.toml: there is no such file")


def test_the_systems_home_has_its_socket_in_run(tmp_path: Path) -> None:
    settings, _ = load(tmp_path, environment={"EDGED_HOME": "/var/lib/edged"})
    assert settings.socket == Path("/run/edged/edged.sock")
    assert settings.models_file == Path("/etc/edged/models.toml")


def test_socket_and_models_file_can_be_off(tmp_path: Path) -> None:
    settings, _ = load(tmp_path, environment={"EDGED_SOCKET": "off", "EDGED_MODELS": "off"})
    assert settings.socket is None
    assert settings.models_file is None


def test_a_tilde_is_the_users_home(tmp_path: Path) -> None:
    settings, _ = load(tmp_path, 'home = "~/e"\n')
    assert settings.home == tmp_path / "user/e"


def test_a_home_that_is_named_from_the_working_folder_is_the_same_for_children_elsewhere(tmp_path: Path) -> None:
    settings, _ = load(tmp_path, environment={"EDGED_HOME": "there/home"})
    assert settings.home == Path.cwd() / "there/home"


def test_the_hub_is_named_by_its_own_variables_and_edged_ones_win(tmp_path: Path) -> None:
    hub = {"HF_ENDPOINT": "http://127.0.0.1:9/", "HF_TOKEN": "hf_secret"}
    settings, origins = load(tmp_path, environment=hub)
    assert settings.hf_endpoint == "http://127.0.0.1:9"
    assert settings.hf_token is not None
    assert settings.hf_token.get_secret_value() == "hf_secret"
    assert str(origins["hf_token"]) == "HF_TOKEN"
    settings, origins = load(tmp_path, environment={**hub, "EDGED_HF_ENDPOINT": "https://hub.example"})
    assert (settings.hf_endpoint, str(origins["hf_endpoint"])) == ("https://hub.example", "EDGED_HF_ENDPOINT")


def test_sizes_and_lists_may_be_written_for_people(tmp_path: Path) -> None:
    environment = {"EDGED_MEMORY_BYTES": "4GiB", "EDGED_ALLOWED_HOSTS": "box.lan, box", "EDGED_LOG_PROMPTS": "true"}
    settings, _ = load(tmp_path, environment=environment)
    assert settings.memory_bytes == 4 * 1024**3
    assert settings.allowed_hosts == ("box.lan", "box")
    assert settings.log_prompts is True
    assert load(tmp_path, 'allowed_hosts = ["a", "b"]\n')[0].allowed_hosts == ("a", "b")


def test_an_empty_variable_is_as_one_not_set(tmp_path: Path) -> None:
    settings, origins = load(tmp_path, environment={"EDGED_PORT": "", "HF_TOKEN": ""})
    assert (settings.port, settings.hf_token, str(origins["port"])) == (8343, None, "default")


@pytest.mark.parametrize(
    ("text", "place", "key", "told"),
    [
        ("\nprot = 1\n", (2, 1), "prot", "there is no such setting; did you mean port?"),
        ('port = "x"\n', (1, 8), "port", "must be a whole number"),
        ("port = 70000\n", (1, 8), "port", "must be a whole number from 0 to 65535"),
        ("port = true\n", (1, 8), "port", "true"),
        ('# ä\nlog_level = "infos"\n', (2, 13), "log_level",
         "must be one of debug, info, warning, error; did you mean info?"),
        ("keep_alive_s = -2\n", (1, 16), "keep_alive_s", "must be a number of at least -1"),
        ("grace_s = nan\n", (1, 11), "grace_s", "must be a number"),
        ('memory_bytes = "4 apples"\n', (1, 16), "memory_bytes", "must be a size like 4GiB"),
        ("max_queue = true\n", (1, 13), "max_queue", "true"),
        ('hf_endpoint = "hub"\n', (1, 15), "hf_endpoint", "must be an address like https://huggingface.co"),
        ("log_prompts = 3\n", (1, 15), "log_prompts", "must be true or false"),
        ("[port]\nx = 1\n", (1, 2), "port", "must be a whole number"),
        ('models_file = "/nowhere/m.toml"\n', (1, 15), "models_file", "there is no file /nowhere/m.toml"),
    ],
)
def test_a_mistake_in_the_file_has_line_column_key_and_what_is_right(
    tmp_path: Path, text: str, place: tuple[int, int], key: str, told: str
) -> None:
    error = mistake(tmp_path, text)
    assert (error.file, (error.line, error.column), error.key) == (f"{tmp_path}/edged.toml", place, key)
    assert told in str(error)


def test_a_mistake_in_a_variable_names_it(tmp_path: Path) -> None:
    assert str(mistake(tmp_path, environment={"EDGED_PORT": "x"})).startswith("EDGED_PORT: must be a whole number")
    unknown = str(mistake(tmp_path, environment={"EDGED_PROT": "1"}))
    assert unknown == "EDGED_PROT: there is no such setting; did you mean EDGED_PORT? (`edged config` lists all)"


def test_a_mistake_in_a_flag_names_it(tmp_path: Path) -> None:
    assert str(mistake(tmp_path, flags={"log_format": "xml"})) == "--log-format: must be one of console, json, auto"
    assert str(mistake(tmp_path, flags={"prot": 1})).startswith("--prot: there is no such setting; did you mean port?")


def test_variables_that_are_no_settings_are_known(tmp_path: Path) -> None:
    models = tmp_path / "models.toml"
    models.write_text("")
    environment = {"EDGED_HOME": str(tmp_path), "EDGED_MODELS": str(models)}
    settings, origins = load(tmp_path, "", environment)
    assert settings.models_file == models
    assert str(origins["models_file"]) == "EDGED_MODELS"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "box.lan"])
def test_another_address_than_loopback_needs_keys(tmp_path: Path, host: str) -> None:
    settings, origins = load(tmp_path, f'port = 1\nhost = "{host}"\n')
    with pytest.raises(ConfigError) as caught:
        require_keys(settings, origins)
    assert str(caught.value).startswith(f"{tmp_path}/edged.toml:2:8: host: {host} can be reached from other machines")
    assert "EDGED_API_KEYS" in str(caught.value)
    with_keys, origins = load(tmp_path, f'host = "{host}"\n', {"EDGED_API_KEYS": "k"})
    require_keys(with_keys, origins)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_none(tmp_path: Path, host: str) -> None:
    require_keys(*load(tmp_path, f'host = "{host}"\n'))


def test_keys_are_kept_hashed_and_shown_nowhere(tmp_path: Path) -> None:
    hashed = hash_key("second-key")
    environment = {"EDGED_API_KEYS": f"first-key,{hashed}", "EDGED_ADMIN_KEYS": "admin-key", "HF_TOKEN": "hf_secret"}
    settings, _ = load(tmp_path, environment=environment)
    assert settings.api_keys == (hash_key("first-key"), hashed)
    told = repr(settings) + str(settings) + json.dumps([shown(settings, name) for name in Settings.__struct_fields__])
    for secret in ("first-key", "second-key", "admin-key", "hf_secret", "sha256:"):
        assert secret not in told
    assert shown(settings, "api_keys") == "2 set"
    assert shown(settings, "hf_token") == "set"


@pytest.mark.parametrize("keys", ['["sha256:abc"]', "[1]", '[""]', "5"])
def test_a_mistake_in_a_key_does_not_show_it(tmp_path: Path, keys: str) -> None:
    error = mistake(tmp_path, f"api_keys = {keys}\n")
    assert error.key == "api_keys"
    assert "abc" not in str(error)


def test_settings_made_in_code_read_no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGED_PORT", "1")
    settings = Settings(home=tmp_path)
    assert settings.port == 8343
    with pytest.raises(AttributeError):
        settings.port = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        Settings(prot=1)  # type: ignore[call-arg]


def test_every_setting_is_described_for_help() -> None:
    told = describe_settings()
    assert [info.name for info in told] == list(Settings.__struct_fields__)
    for info in told:
        assert info.description, info.name
        assert info.type
        assert info.flag == "--" + info.name.replace("_", "-")
        assert all(name.startswith(("EDGED_", "HF_")) for name in info.environment)
    assert describe("port").default == "8343"
    assert describe("max_body_bytes").default == "16MiB"
    assert describe("unknown_fields").choices == ("refuse", "report")
    assert describe("models_file").environment == ("EDGED_MODELS",)


def test_the_toml_grammar_is_imported_for_mistakes_only(tmp_path: Path) -> None:
    (tmp_path / "edged.toml").write_text("port = 3\n")
    code = (
        "import sys; from edged.settings import load_settings; from edged.store.catalog import load_catalog\n"
        "settings, origins = load_settings(); load_catalog(None)\n"
        "assert settings.port == 3 and 'tree_sitter' not in sys.modules\n"
        "assert str(origins['port']).endswith(':1') and 'tree_sitter' in sys.modules\n"
        "assert not {'numpy', 'llama_cpp', 'onnxruntime'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "EDGED_CONFIG": str(tmp_path / "edged.toml")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=30)


@pytest.mark.parametrize(("text", "environment"), [
    ('capture_redact = ["/opt/redact", "--names", "a b"]\n', {}),
    ("capture_redact = \"/opt/redact --names 'a b'\"\n", {}),
    (None, {"EDGED_CAPTURE_REDACT": "/opt/redact --names 'a b'"}),
])
def test_a_program_is_a_list_or_what_a_shell_would_make_of_a_text(
    tmp_path: Path, text: str | None, environment: dict[str, str],
) -> None:
    settings, _ = load(tmp_path, text, environment)
    assert settings.capture_redact == ("/opt/redact", "--names", "a b")
    assert shown(settings, "capture_redact") == "/opt/redact --names 'a b'"


@pytest.mark.parametrize("written", ["\"it's\"", '["", "x"]', "[1]", "5", "true"])
def test_what_is_no_program_is_told_at_its_place(tmp_path: Path, written: str) -> None:
    error = mistake(tmp_path, f"capture_redact = {written}\n")
    assert (error.key, error.line) == ("capture_redact", 1)
    assert "a program and its arguments" in str(error)
