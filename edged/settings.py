"""Settings of the server, read once: defaults < file < environment < flags, each value's origin kept.

The file is `/etc/edged/edged.toml` where it exists, or the one that `EDGED_CONFIG` names. Every setting is described
here and nowhere else: `edged config` and `edged serve --help` print `describe_settings()`. How a value of each kind is
read and checked is in `edged.setting_kinds`.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from msgspec import Struct
from msgspec import field as struct_field
from msgspec.structs import force_setattr

from edged import setting_kinds as kinds
from edged.errors import ConfigError
from edged.setting_kinds import Kind, SecretStr, hash_key, number, one_of, or_off, whole
from edged.toml_file import TomlFile, locate, nearest, read_toml

__all__ = ["hash_key"]

PREFIX = "EDGED_"
SYSTEM_CONFIG = Path("/etc/edged/edged.toml")
SYSTEM_MODELS = Path("/etc/edged/models.toml")
SYSTEM_HOME = Path("/var/lib/edged")
SYSTEM_SOCKET = Path("/run/edged/edged.sock")


class InvalidSetting(ValueError):
    """must_be: what would be right, in words; never what was given."""

    def __init__(self, setting: str, must_be: str) -> None:
        super().__init__(f"{setting} must be {must_be}")
        self.setting, self.must_be = setting, must_be


def _default_home() -> Path:
    import platformdirs

    return platformdirs.user_data_path("edged", appauthor=False)


def _default_socket(home: Path) -> Path:
    return SYSTEM_SOCKET if home == SYSTEM_HOME else home / "edged.sock"


def _default_models_file(home: Path) -> Path:
    """The first that exists, or where the owner of this home would make it."""
    if home == SYSTEM_HOME:
        return SYSTEM_MODELS
    import platformdirs

    user = platformdirs.user_config_path("edged", appauthor=False) / "models.toml"
    return SYSTEM_MODELS if SYSTEM_MODELS.exists() and not user.exists() else user


_Texts = tuple[str, ...]
_UnknownFields = Literal["refuse", "report"]
_PrefixSharing = Literal["all", "key"]
_LogFormat = Literal["console", "json", "auto"]
_LogLevel = Literal["debug", "info", "warning", "error"]

#: Not given; it follows from home.
_BY_HOME: Any = "by home"


class Settings(Struct, frozen=True, kw_only=True):
    """Every setting. Sizes in bytes (a text like "4GiB" is read too), times in seconds.

    Always valid: what is given is read by its kind. Raises InvalidSetting.
    """

    home: Annotated[Path, kinds.PATH, "folder of models, caches and jobs"] = struct_field(default_factory=_default_home)
    host: Annotated[str, kinds.TEXT, "address to listen on; another than loopback needs api_keys"] = "127.0.0.1"
    port: Annotated[int, whole(0, 65535), "TCP port; 0 takes a free one"] = 8343
    socket: Annotated[
        Path | None, or_off(kinds.PATH),
        "Unix socket, or off; by default in home, for the system's home /run/edged/edged.sock"] = _BY_HOME
    models_file: Annotated[
        Path | None, or_off(kinds.PATH), "your own models.toml over the shipped catalog, or off"] = _BY_HOME

    hf_endpoint: Annotated[str, kinds.WEB_ADDRESS, "address of the model hub"] = "https://huggingface.co"
    hf_token: Annotated[SecretStr | None, kinds.SECRET, "token for gated models; sent to the hub's host only"] = None

    api_keys: Annotated[
        _Texts, kinds.KEYS,
        "keys that clients must show; plain or sha256:<hex>, kept hashed; none means no key is asked for"] = ()
    admin_keys: Annotated[_Texts, kinds.KEYS, "keys for the admin routes; plain or sha256:<hex>, kept hashed"] = ()
    allowed_hosts: Annotated[
        _Texts, kinds.NAMES,
        "names that requests may give as Host besides loopback's and the one listened on"] = ()
    cors_origins: Annotated[
        _Texts, kinds.NAMES,
        "web origins whose pages may call the API, like https://app.example; none by default"] = ()
    unknown_fields: Annotated[
        _UnknownFields, one_of(_UnknownFields),
        "an unknown request field is answered with 400, or told in the header edged-ignored"] = "refuse"
    max_body_bytes: Annotated[int, kinds.SIZE, "largest request body"] = 16 * 1024 * 1024
    max_header_bytes: Annotated[int, kinds.SIZE, "largest request header"] = 32 * 1024
    max_json_depth: Annotated[int, whole(1, 1000), "deepest nesting of a JSON body"] = 64
    receive_timeout_s: Annotated[float, number(above=0), "a request must be received within this time"] = 30.0
    max_queue: Annotated[int, whole(0), "requests that may wait for one model; more get 429"] = 64

    stored_responses: Annotated[
        int, whole(0), "answers of /v1/responses that are kept, the least recently used go first; 0 keeps none"] = 1000
    stored_responses_bytes: Annotated[int, kinds.SIZE, "what they may take on the disk"] = 64 * 1024 * 1024
    stored_responses_days: Annotated[float, number(above=0), "no answer is kept longer"] = 30.0

    prefix_sharing: Annotated[
        _PrefixSharing, one_of(_PrefixSharing),
        "a prompt's KV serves the prompts of all that begin alike, or only those of the same API key"] = "all"
    kv_ram_bytes: Annotated[
        int, kinds.SIZE_OR_NONE,
        "KV of earlier prompts that each loaded model keeps in memory beside what it computes with"] = 256 * 1024 * 1024
    kv_disk_bytes: Annotated[
        int, kinds.SIZE_OR_NONE,
        "KV of prompts that came repeatedly, kept in home for the next start, of all models together; 0 keeps none"
    ] = 1024**3
    kv_disk_write_bytes_per_day: Annotated[
        int, kinds.SIZE, "no more of it is written in 24 hours, for the sake of flash"] = 2 * 1024**3
    kv_disk_days: Annotated[float, number(above=0), "what no prompt used for so long is removed"] = 7.0

    capture: Annotated[
        _Texts, kinds.NAMES,
        "models whose whole answers are kept in home for training, with what was asked; none by default"] = ()
    capture_bytes: Annotated[
        int, kinds.SIZE, "what they may take on the disk, of all models together; the oldest go first"
    ] = 256 * 1024 * 1024
    capture_days: Annotated[float, number(above=0), "none is kept longer"] = 30.0
    capture_redact: Annotated[
        _Texts, kinds.COMMAND,
        "program that gets each as a line of JSON before it is kept, and writes what may be kept, or nothing"] = ()
    capture_redact_s: Annotated[float, number(above=0), "a program that takes longer is killed, its answer dropped"
                                ] = 10.0

    memory_bytes: Annotated[
        int | None, kinds.SIZE,
        "memory for all loaded models together; by default a share of what the machine has free"] = None
    keep_alive_s: Annotated[float, number(least=-1), "an idle model is unloaded after this time; -1 never"] = 300.0
    reload_models: Annotated[
        bool, kinds.BOOLEAN,
        "models that were in memory are loaded again when the daemon starts, as far as there is room"] = True
    grace_s: Annotated[float, number(above=0), "on stop, requests in flight may end within this time"] = 30.0
    heartbeat_s: Annotated[float, number(above=0), "while a model loads, a stream gets a comment this often"] = 15.0
    load_timeout_s: Annotated[float, number(above=0), "a model that loads longer is given up"] = 600.0
    hang_timeout_s: Annotated[float, number(above=0), "a worker silent for this time is killed"] = 60.0

    log_format: Annotated[_LogFormat, one_of(_LogFormat), "auto is console in a terminal, else json"] = "auto"
    log_level: Annotated[_LogLevel, one_of(_LogLevel), "least level logged"] = "info"
    log_prompts: Annotated[bool, kinds.BOOLEAN, "log the texts of requests and answers"] = False

    def __post_init__(self) -> None:
        for setting, default in _DEFAULTS.items():
            value = getattr(self, setting)
            if value is not default:
                force_setattr(self, setting, _read(setting, value))
        # Child processes have other working folders.
        force_setattr(self, "home", self.home.absolute())
        if self.socket is _BY_HOME:
            force_setattr(self, "socket", _default_socket(self.home))
        if self.models_file is _BY_HOME:
            force_setattr(self, "models_file", _default_models_file(self.home))

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={shown(self, name)!r}' for name in NAMES_OF_SETTINGS)})"


NAMES_OF_SETTINGS = Settings.__struct_fields__
_DEFAULTS: dict[str, Any] = dict(zip(NAMES_OF_SETTINGS, Settings.__struct_defaults__, strict=True))


@cache
def _declared() -> dict[str, tuple[Kind, str]]:
    """Kind and description of each setting, as `Settings` declares them."""
    hints = get_type_hints(Settings, include_extras=True)
    return {name: get_args(hints[name])[1:] for name in NAMES_OF_SETTINGS}


def _read(setting: str, value: object) -> Any:
    try:
        return _declared()[setting][0].read(value)
    except ValueError as error:
        raise InvalidSetting(setting, str(error)) from None


#: Environment names besides EDGED_<NAME>, first one wins.
_ENVIRONMENT_NAMES = {
    "models_file": ("EDGED_MODELS",),
    "hf_endpoint": ("EDGED_HF_ENDPOINT", "HF_ENDPOINT"),
    "hf_token": ("EDGED_HF_TOKEN", "HF_TOKEN"),
}


def environment_names(setting: str) -> tuple[str, ...]:
    return _ENVIRONMENT_NAMES.get(setting, (PREFIX + setting.upper(),))


def flag_name(setting: str) -> str:
    return "--" + setting.replace("_", "-")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a setting's value came from. name: the key, the variable or the flag that said it."""

    kind: Literal["default", "file", "environment", "flag"]
    name: str = ""
    file: TomlFile | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """`default`, `/etc/edged/edged.toml:3`, `EDGED_PORT` or `--port`."""
        if self.file is not None:
            return f"{self.file.path}:{locate(self.file.text, (self.name,)).line}"
        return self.name or "default"

    def mistake(self, message: str) -> ConfigError:
        if self.file is not None:
            return self.file.mistake((self.name,), message, at_value=True)
        return ConfigError(message, key=self.name)


def load_settings(flags: Mapping[str, Any] | None = None) -> tuple[Settings, dict[str, Origin]]:
    """Settings and the origin of each. flags: by setting name, None means not given; `config` names another file.

    Raises ConfigError with file, line, column and key (or the variable, or the flag) and what would be right.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    named = given.pop("config", None) or os.environ.get("EDGED_CONFIG")
    path = Path(named).expanduser() if named else SYSTEM_CONFIG
    said = _from_file(path) if named or path.exists() else {}
    said |= _from_environment(os.environ)
    said |= _from_flags(given)
    origins = {name: said[name][1] if name in said else Origin("default") for name in NAMES_OF_SETTINGS}
    try:
        settings = Settings(**{name: value for name, (value, _) in said.items()})
    except InvalidSetting as error:
        given, choices = said[error.setting][0], describe(error.setting).choices
        near = nearest(given, choices) if choices and isinstance(given, str) else ""
        raise origins[error.setting].mistake(f"must be {error.must_be}{near}") from None
    if "models_file" in said and settings.models_file and not settings.models_file.is_file():
        raise origins["models_file"].mistake(f"there is no file {settings.models_file}; make it, or name another one")
    return settings, origins


def require_keys(settings: Settings, origins: Mapping[str, Origin]) -> None:
    """What may be reached from other machines must ask for keys. Raises ConfigError; `edged serve` calls it."""
    if not settings.api_keys and not is_loopback(settings.host):
        raise origins["host"].mistake(
            f"{settings.host} can be reached from other machines, but no api_keys are set; "
            "set api_keys (EDGED_API_KEYS), or listen on 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


_Said = dict[str, tuple[Any, Origin]]


def _from_file(path: Path) -> _Said:
    file = read_toml(path)
    for key in file.values:
        if key not in NAMES_OF_SETTINGS:
            raise file.mistake((key,), f"there is no such setting{nearest(key, NAMES_OF_SETTINGS)} "
                                       "(`edged config` lists all)")
    return {name: (value, Origin("file", name, file)) for name, value in file.values.items()}


#: Variables that are no settings: they say where settings are.
_OTHER_VARIABLES = ("EDGED_CONFIG",)


def _from_environment(environment: Mapping[str, str]) -> _Said:
    """A variable that is set but empty is as one that is not set."""
    said: _Said = {}
    known = set(_OTHER_VARIABLES)
    for setting in NAMES_OF_SETTINGS:
        names = environment_names(setting)
        known.update(names)
        if (name := next((name for name in names if environment.get(name)), None)) is not None:
            said[setting] = (environment[name], Origin("environment", name))
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known:
            raise ConfigError(f"there is no such setting{nearest(name, known)} (`edged config` lists all)", key=name)
    return said


def _from_flags(flags: Mapping[str, Any]) -> _Said:
    for name in flags:
        if name not in NAMES_OF_SETTINGS:
            raise ConfigError(f"there is no such setting{nearest(name, NAMES_OF_SETTINGS)}", key=flag_name(name))
    return {name: (value, Origin("flag", flag_name(name))) for name, value in flags.items()}


@dataclass(frozen=True, slots=True)
class SettingInfo:
    """One setting as people read it. default: as one would write it, empty where there is none."""

    name: str
    environment: tuple[str, ...]
    flag: str
    type: str
    default: str
    description: str
    choices: tuple[str, ...] = ()
    secret: bool = False


_DEFAULTS_IN_WORDS = {
    "home": "~/.local/share/edged", "socket": "edged.sock in home",
    "models_file": "~/.config/edged/models.toml or /etc/edged/models.toml",
}


def describe(name: str) -> SettingInfo:
    kind, description = _declared()[name]
    return SettingInfo(
        name=name, environment=environment_names(name), flag=flag_name(name), type=kind.type,
        default=_DEFAULTS_IN_WORDS.get(name) or _written(kind, _DEFAULTS[name]),
        description=description, choices=kind.choices, secret=kind.secret,
    )


def describe_settings() -> list[SettingInfo]:
    return [describe(name) for name in NAMES_OF_SETTINGS]


def shown(settings: Settings, name: str) -> str:
    """The value as `edged config` prints it; of a secret only that it is set."""
    kind, _ = _declared()[name]
    value = getattr(settings, name)
    if kind.secret:
        if not value:
            return ""
        return f"{len(value)} set" if isinstance(value, tuple) else "set"
    return _written(kind, value)


def plain(settings: Settings, name: str) -> bool | int | float | str | list[str] | None:
    """The value as JSON has it; of a secret only whether it is set."""
    value: Any = getattr(settings, name)
    if _declared()[name][0].secret:
        return bool(value)
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _written(kind: Kind, value: Any) -> str:
    return "" if value is None or value == () else kind.write(value)
