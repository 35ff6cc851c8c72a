"""Settings of the server, read once: defaults < file < environment < flags, each value's origin kept.

The file is `/etc/edged/edged.toml` where it exists, or the one that `EDGED_CONFIG` names. Every setting is described
here and nowhere else: `edged config` and `edged serve --help` print `describe_settings()`.

pydantic validates; the sources are read here, because pydantic-settings does not tell which source a value came from.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import platformdirs
from pydantic import AfterValidator, BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, SecretStr, ValidationError

from edged.errors import ConfigError
from edged.toml_file import TomlFile, locate, nearest, read_toml

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

PREFIX = "EDGED_"
SYSTEM_CONFIG = Path("/etc/edged/edged.toml")
SYSTEM_MODELS = Path("/etc/edged/models.toml")
SYSTEM_HOME = Path("/var/lib/edged")
SYSTEM_SOCKET = Path("/run/edged/edged.sock")


def hash_key(key: str) -> str:
    """`sha256:<64 hex>`, the only form in which edged keeps an API key. Keys are random and long, so that a plain
    hash is enough."""
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def _split(value: object) -> object:
    """Lists may be written with commas, which is what an environment variable or a flag can hold."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _hashed(value: object) -> object:
    parts = _split(value)
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) and part for part in parts):
        raise ValueError("a list of keys, each a text or sha256:<64 hex digits>")
    for part in parts:
        if part.startswith("sha256:") and not re.fullmatch(r"sha256:[0-9a-f]{64}", part):
            raise ValueError("after sha256: come 64 hex digits in lower case (`printf %s KEY | sha256sum`)")
    return tuple(part if part.startswith("sha256:") else hash_key(part) for part in parts)


def _off(value: object) -> object:
    return None if value == "off" else value


def _expanded(value: object) -> object:
    return os.path.expanduser(value) if isinstance(value, str) else value


def _whole(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number, not true or false")
    return value


def _web_address(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", value):
        raise ValueError("an address like https://huggingface.co")
    return value.rstrip("/")


_WebAddress = Annotated[str, AfterValidator(_web_address)]
_Keys = Annotated[tuple[str, ...], BeforeValidator(_hashed)]
_Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
_Path = Annotated[Path, BeforeValidator(_expanded)]
_PathOrOff = Annotated[_Path | None, BeforeValidator(_off)]
_Whole = Annotated[int, BeforeValidator(_whole)]
_Count = Annotated[int, BeforeValidator(_whole), Field(ge=1)]
_Seconds = Annotated[float, BeforeValidator(_whole), Field(gt=0, allow_inf_nan=False)]
_Size = Annotated[ByteSize, BeforeValidator(_whole), Field(gt=0)]


def _default_home(_: dict[str, Any]) -> Path:
    return platformdirs.user_data_path("edged", appauthor=False)


def _default_socket(values: dict[str, Any]) -> Path | None:
    home = values.get("home")
    if home is None:
        return None
    return SYSTEM_SOCKET if home == SYSTEM_HOME else home / "edged.sock"


def _default_models_file(values: dict[str, Any]) -> Path:
    """The first that exists, or where the owner of this home would make it."""
    user = platformdirs.user_config_path("edged", appauthor=False) / "models.toml"
    if values.get("home") == SYSTEM_HOME:
        return SYSTEM_MODELS
    return SYSTEM_MODELS if SYSTEM_MODELS.exists() and not user.exists() else user


class Settings(BaseModel):
    """Every setting. Sizes in bytes (a text like "4GiB" is read too), times in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    home: _Path = Field(default_factory=_default_home, description="folder of models, caches and jobs")
    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on; another than loopback "
                      "needs api_keys")
    port: _Whole = Field(default=8343, ge=0, le=65535, description="TCP port; 0 takes a free one")
    socket: _PathOrOff = Field(default_factory=_default_socket, description="Unix socket, or off; by default in home, "
                               "for the system's home /run/edged/edged.sock")
    models_file: _PathOrOff = Field(default_factory=_default_models_file, description="your own models.toml over the "
                                    "shipped catalog, or off")

    hf_endpoint: _WebAddress = Field(
        default="https://huggingface.co", description="address of the model hub")
    hf_token: SecretStr | None = Field(default=None, description="token for gated models; sent to the hub's host only")

    api_keys: _Keys = Field(default=(), repr=False, description="keys that clients must show; plain or sha256:<hex>, "
                            "kept hashed; none means no key is asked for")
    admin_keys: _Keys = Field(default=(), repr=False, description="keys for the admin routes; plain or sha256:<hex>, "
                              "kept hashed")
    allowed_hosts: _Names = Field(default=(), description="names that requests may give as Host besides loopback's "
                                  "and the one listened on")
    cors_origins: _Names = Field(default=(), description="web origins whose pages may call the API, like "
                                 "https://app.example; none by default")
    unknown_fields: Literal["refuse", "report"] = Field(default="refuse", description="an unknown request field is "
                                                        "answered with 400, or told in the header edged-ignored")
    max_body_bytes: _Size = Field(default=ByteSize(16 * 1024 * 1024), description="largest request body")
    max_header_bytes: _Size = Field(default=ByteSize(32 * 1024), description="largest request header")
    max_json_depth: _Count = Field(default=64, le=1000, description="deepest nesting of a JSON body")
    receive_timeout_s: _Seconds = Field(default=30.0, description="a request must be received within this time")
    max_queue: _Whole = Field(default=64, ge=0, description="requests that may wait for one model; more get 429")

    memory_bytes: _Size | None = Field(default=None, description="memory for all loaded models together; by default "
                                       "a share of what the machine has free")
    keep_alive_s: Annotated[float, BeforeValidator(_whole)] = Field(
        default=300.0, ge=-1, allow_inf_nan=False, description="an idle model is unloaded after this time; -1 never")
    grace_s: _Seconds = Field(default=30.0, description="on stop, requests in flight may end within this time")
    heartbeat_s: _Seconds = Field(default=15.0, description="while a model loads, a stream gets a comment this often")
    load_timeout_s: _Seconds = Field(default=600.0, description="a model that loads longer is given up")
    hang_timeout_s: _Seconds = Field(default=60.0, description="a worker silent for this time is killed")

    log_format: Literal["console", "json", "auto"] = Field(default="auto", description="auto is console in a terminal, "
                                                           "else json")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="least level logged")
    log_prompts: bool = Field(default=False, description="log the texts of requests and answers")


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
    origins = {name: said[name][1] if name in said else Origin("default") for name in Settings.model_fields}
    try:
        settings = Settings.model_validate({name: value for name, (value, _) in said.items()})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        raise origins[name].mistake(_what_is_right(name, first)) from None
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
        if key not in Settings.model_fields:
            raise file.mistake((key,), f"there is no such setting{nearest(key, Settings.model_fields)} "
                                       "(`edged config` lists all)")
    return {name: (value, Origin("file", name, file)) for name, value in file.values.items()}


#: Variables that are no settings: they say where settings are.
_OTHER_VARIABLES = ("EDGED_CONFIG",)


def _from_environment(environment: Mapping[str, str]) -> _Said:
    """A variable that is set but empty is as one that is not set."""
    said: _Said = {}
    known = set(_OTHER_VARIABLES)
    for setting in Settings.model_fields:
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
        if name not in Settings.model_fields:
            raise ConfigError(f"there is no such setting{nearest(name, Settings.model_fields)}", key=flag_name(name))
    return {name: (value, Origin("flag", flag_name(name))) for name, value in flags.items()}


def _what_is_right(name: str, error: ErrorDetails) -> str:
    """One line from pydantic's first error. Never the value: it may be a secret."""
    info = describe(name)
    if error["type"] == "value_error":
        return f"must be {error['ctx']['error']}"
    if info.choices:
        given = error.get("input")
        near = nearest(given, info.choices) if isinstance(given, str) else ""
        return f"must be one of {', '.join(info.choices)}{near}"
    return f"must be {info.type}: {error['msg'][0].lower()}{error['msg'][1:]}"


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


_SECRET = ("hf_token", "api_keys", "admin_keys")
_TYPES: dict[object, str] = {
    str: "a text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path",
    ByteSize: "a size like 4GiB", SecretStr: "a text", tuple: "a list of texts",
}


def describe(name: str) -> SettingInfo:
    info = Settings.model_fields[name]
    kind = _plain_type(info.annotation)
    choices = tuple(get_args(kind)) if get_origin(kind) is Literal else ()
    if info.default_factory is not None:
        default = {"home": "~/.local/share/edged", "socket": "edged.sock in home",
                   "models_file": "~/.config/edged/models.toml or /etc/edged/models.toml"}[name]
    else:
        default = _written(info.default)
    return SettingInfo(
        name=name, environment=environment_names(name), flag=flag_name(name),
        type="one of " + ", ".join(choices) if choices else _TYPES[kind],
        default=default, description=info.description or "", choices=choices, secret=name in _SECRET,
    )


def describe_settings() -> list[SettingInfo]:
    return [describe(name) for name in Settings.model_fields]


def shown(settings: Settings, name: str) -> str:
    """The value as `edged config` prints it; of a secret only that it is set."""
    value = getattr(settings, name)
    if name in _SECRET:
        if not value:
            return ""
        return f"{len(value)} set" if isinstance(value, tuple) else "set"
    return _written(value)


def _written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, ByteSize):
        return value.human_readable().replace(".0", "") if value % 1024 == 0 else str(int(value))
    if isinstance(value, tuple):
        return ", ".join(str(part) for part in value)
    return "" if value is None else str(value)


def _plain_type(annotation: object) -> object:
    """The type within Annotated and Optional."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _plain_type(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return _plain_type(next(part for part in get_args(annotation) if part is not NoneType))
    return tuple if origin is tuple else annotation
