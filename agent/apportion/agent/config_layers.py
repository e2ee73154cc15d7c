"""Reading the configuration: defaults < YAML file < environment < flags, each with its origin."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource

from apportion.agent.config import DEFAULT_FILE, PREFIX, AgentConfig
from apportion.agent.config_defaults import host_defaults
from apportion.agent.config_labels import LabelLimits
from apportion.core.errors import ConfigError
from apportion.cost.document import Marked, read_document

FILE_VARIABLE: Final = f"{PREFIX}CONFIG"
CLIENT_VARIABLES: Final = frozenset(
    f"{PREFIX}{name}"
    for name in (
        *("CONFIG", "WORKLOAD", "RUN", "ATTEMPT", "SIMULATOR_STATE"),
        *("TEST_WHEEL", "WHEEL"),
    )
)
"""Variables with the prefix that are not keys: the file's path, the client's, the simulator's."""

_WANTED: Final = {
    "tuple_type": "give a list, such as [one, two]",
    "dict_type": "give a mapping, such as {name: value}",
    "model_type": "give a mapping, such as {name: value}",
    "string_type": "give text",
    "path_type": "give a path",
}
"""What to write where pydantic would name a type of Python."""
_KUBERNETES: Final = re.compile(rf"{PREFIX}(.+_)?(SERVICE_(HOST|PORT)(_.+)?|PORT(_.+)?)")
"""What Kubernetes injects for a Service whose name begins with `apportion`."""


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration, where each of its keys was set, and what looks wrong but is no error.

    `origins` maps a key (nested ones as `labels.max_models`) to `default`, `<file>:<line>`,
    the name of an environment variable, or a flag.
    """

    config: AgentConfig
    origins: Mapping[str, str]
    path: Path | None = None
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class _Layers:
    values: dict[str, object] = field(default_factory=dict[str, object])
    origins: dict[str, str] = field(default_factory=dict[str, str])

    def put(self, key: str, value: object, origin: str) -> None:
        outer, _, inner = key.partition(".")
        if inner:
            nested = self.values.setdefault(outer, {})
            if isinstance(nested, dict):
                nested[inner] = value
        else:
            self.values[outer] = value
        self.origins[key] = origin


def keys() -> tuple[str, ...]:
    """Every key of the schema, nested ones as `labels.max_models`, in the schema's order."""
    found: list[str] = []
    for name in AgentConfig.model_fields:
        inner = LabelLimits.model_fields if name == "labels" else {}
        found.extend(f"{name}.{key}" for key in inner)
        if not inner:
            found.append(name)
    return tuple(found)


def flag(key: str) -> str:
    """The command line's flag for a key."""
    return f"--{key.replace('.', '-').replace('_', '-')}"


def variable(key: str) -> str:
    """The environment variable for a key."""
    return f"{PREFIX}{key.replace('.', '__').upper()}"


def load_config(
    path: Path | None,
    environment: Mapping[str, str],
    flags: Mapping[str, str],
    *,
    uid: int,
    host_name: str,
) -> LoadedConfig:
    """Read and merge all layers.

    `path` is the file that a person named; without one it is the environment's
    `APPORTION_CONFIG`, else the default file where that exists. `flags` maps keys to texts.

    Raises:
        ConfigError: a file cannot be read, or a key or value is wrong; with file and line, the
            variable or the flag.
    """
    layers = _Layers()
    for key, value in host_defaults(environment, uid=uid, host_name=host_name).items():
        layers.put(key, value, "default")
    file_path = _file_path(path, environment)
    if file_path is not None:
        _read_file(file_path, layers)
    warnings = _read_environment(environment, layers)
    for key, text in flags.items():
        layers.put(key, text, flag(key))
    try:
        config = AgentConfig.model_validate(layers.values)
    except ValidationError as failure:
        raise _refusal(failure, layers) from None
    origins = {key: layers.origins.get(key, "default") for key in keys()}
    return LoadedConfig(config, origins, file_path, tuple(warnings))


def _file_path(path: Path | None, environment: Mapping[str, str]) -> Path | None:
    if path is not None:
        return path
    named = environment.get(FILE_VARIABLE)
    if named:
        return Path(named)
    return DEFAULT_FILE if DEFAULT_FILE.exists() else None


def _read_file(path: Path, layers: _Layers) -> None:
    document = read_document(path)
    if document.value is None:
        return
    if not isinstance(document.value, Mapping):
        raise ConfigError(
            f"a configuration is a mapping of keys to values, this is {document.kind}",
            path=path,
            line=document.line,
        )
    known = keys()
    for key, entry in _flat(document.value, path):
        if key not in known:
            raise ConfigError(
                f"unknown key {key!r}; {_suggestion(key, known)}", path=path, line=entry.line
            )
        if entry.value is not None:
            layers.put(key, entry.plain, f"{path}:{entry.line}")


def _flat(values: Mapping[str, Marked], path: Path) -> list[tuple[str, Marked]]:
    flat: list[tuple[str, Marked]] = []
    for key, entry in values.items():
        if key != "labels":
            flat.append((key, entry))
        elif entry.value is None:
            continue
        elif isinstance(entry.value, Mapping):
            flat.extend((f"{key}.{inner}", value) for inner, value in entry.value.items())
        else:
            raise ConfigError(
                f"`labels` is a mapping, this is {entry.kind}", path=path, line=entry.line
            )
    return flat


class _EnvironmentSource(EnvSettingsSource):
    """pydantic-settings' reading of variables, from a given environment instead of ours."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        super().__init__(AgentConfig)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        # lower case is how the base class looks its variables up; an empty one counts as unset
        return {name.lower(): text for name, text in self._environment.items() if text}


def _read_environment(environment: Mapping[str, str], layers: _Layers) -> list[str]:
    """Put what the environment sets into `layers`; warnings for what it seems to misspell."""
    known = {variable(key): key for key in keys()}
    ours = {name: text for name, text in environment.items() if name in known}
    for outer, value in _EnvironmentSource(ours)().items():
        if isinstance(value, dict):
            nested = cast("dict[str, object]", value)
            for inner, text in nested.items():
                layers.put(f"{outer}.{inner}", text, variable(f"{outer}.{inner}"))
        else:
            layers.put(outer, value, variable(outer))
    return [
        f"environment variable {name} is not a key of the configuration; "
        f"{_suggestion(name, tuple(known))}"
        for name in sorted(environment)
        if name.startswith(PREFIX)
        and name not in known
        and name not in CLIENT_VARIABLES
        and not _KUBERNETES.fullmatch(name)
    ]


def _suggestion(word: str, known: tuple[str, ...]) -> str:
    import difflib  # noqa: PLC0415 - only a person's mistake needs it

    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else "see docs/configuration.md for all keys"


def _refusal(failure: ValidationError, layers: _Layers) -> ConfigError:
    """The first of pydantic's complaints as one sentence with its origin, without the value."""
    complaint = failure.errors(include_url=False, include_context=False, include_input=False)[0]
    location = [str(part) for part in complaint["loc"]]
    key = next(
        (name for name in (".".join(location[:2]), *location[:1]) if name in keys()),
        ".".join(location),
    )
    message = _WANTED.get(complaint["type"], complaint["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    origin = layers.origins.get(key) or _origin_of_named(message, layers)
    said = f"{key}: {message}" if key else message
    if origin is None or origin == "default":
        return ConfigError(said)
    path, _, line = origin.rpartition(":")
    if path and line.isdigit():
        return ConfigError(said, path=path, line=int(line))
    return ConfigError(f"{origin}: {said}")


def _origin_of_named(message: str, layers: _Layers) -> str | None:
    """Where the key that a message about the whole configuration begins with was set."""
    return layers.origins.get(message.partition(" ")[0])
