"""Where a text of metrics is: a URL, or the path of a recorded one."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from apportion.core.errors import ConfigError

METRICS: Final = "/metrics"
_PORTS: Final = {"http": 80, "https": 443}
_VARIABLE: Final = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")
_WITHOUT_SCHEME: Final = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):\d+(?:/\S*)?")


@dataclass(frozen=True, slots=True)
class Target:
    """One place to read. `name` is what labels and messages call it: without user or password.

    Either `file` is set, or `scheme`, `host`, `port` and `path` (with its query) are.
    """

    name: str
    file: Path | None = None
    scheme: str = ""
    host: str = ""
    port: int = 0
    path: str = METRICS
    authorization: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str, environment: Mapping[str, str]) -> Target:
        """A target as a person writes it.

        `http://host:9400/metrics`, a URL without its path or its scheme, `file:///a/recorded/text`
        or a path. `$(NAME)` stands for a variable of `environment`, as in a Kubernetes manifest; an
        IPv6 address in it gets its brackets.

        Raises:
            ConfigError: it is none of these, or a variable is not set. The text is not shown: it
                may hold a password.
        """
        text = _VARIABLE.sub(lambda match: _value(match[1], environment), text.strip())
        if _WITHOUT_SCHEME.fullmatch(text):
            text = f"http://{text}"
        scheme, colon, _ = text.partition("://")
        if not colon:
            if not text:
                raise ConfigError("an empty text is no URL of metrics")
            return cls(text, file=Path(text))
        if scheme == "file":
            path = unquote(urlsplit(text).path)
            return cls(path, file=Path(path))
        if scheme not in _PORTS:
            raise ConfigError(f"a URL of metrics begins with http, https or file, not {scheme!r}")
        return cls._of_url(text)

    @classmethod
    def _of_url(cls, text: str) -> Target:
        try:
            url = urlsplit(text)
            host, port = url.hostname or "", url.port
        except ValueError as error:
            raise ConfigError(f"a URL of metrics is malformed: {error}") from None
        if not host or not re.fullmatch(r"[\x21-\x7e]+", text):
            raise ConfigError("a URL of metrics needs a host, and printable ASCII without blanks")
        path = url.path if url.path.strip("/") else METRICS
        query = f"?{url.query}" if url.query else ""
        shown = f"[{host}]" if ":" in host else host
        number = port or _PORTS[url.scheme]
        name = f"{shown}:{number}" if path == METRICS else f"{shown}:{number}{path}"
        authorization = None
        if url.username is not None:
            pair = f"{unquote(url.username)}:{unquote(url.password or '')}".encode()
            authorization = f"Basic {base64.b64encode(pair).decode()}"
        return cls(name, None, url.scheme, host, number, f"{path}{query}", authorization)

    @property
    def host_header(self) -> str:
        """The host as HTTP wants it: with brackets and without a default port."""
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return shown if self.port == _PORTS[self.scheme] else f"{shown}:{self.port}"


def parse_targets(texts: tuple[str, ...], environment: Mapping[str, str]) -> tuple[Target, ...]:
    """Several targets, each place once.

    Raises:
        ConfigError: see `Target.parse`.
    """
    return tuple(dict.fromkeys(Target.parse(text, environment) for text in texts))


def _value(name: str, environment: Mapping[str, str]) -> str:
    value = environment.get(name)
    if not value:
        raise ConfigError(f"a URL of metrics names $({name}), which is not set in the environment")
    try:
        version = ipaddress.ip_address(value).version
    except ValueError:
        return value
    return f"[{value}]" if version == 6 else value
