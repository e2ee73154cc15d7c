"""Who asks, by the headers of an HTTP request: a tenant's name, or None.

Whoever can reach a server can send any header, so names are believed of proxies that are listed
alone. An API key proves itself; only its SHA-256 digest is compared, and it is kept nowhere.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final, cast
from urllib.parse import unquote

TENANT_FROM: Final = "APPORTION_TENANT_FROM"
"""Sources in order, `header:NAME`, `baggage:KEY`, `api-key`: the first that knows counts."""
TRUSTED_PROXIES: Final = "APPORTION_TRUSTED_PROXIES"
"""Addresses and networks whose headers are believed; `unix` is a peer without an address."""
API_KEYS: Final = "APPORTION_API_KEYS"
"""A JSON file: SHA-256 digest of a key (hexadecimal) to the name of its tenant."""

Headers = Mapping[str, str]
"""By names in lower case."""
_UNIX: Final = "unix"
_PEERS: Final = 1024


class Callers:
    """Names the tenant of a request."""

    def __init__(
        self,
        sources: Iterable[str] = (),
        trusted: Iterable[str] = (),
        api_keys: Mapping[str, str] | None = None,
    ) -> None:
        """`sources` as in `TENANT_FROM`, `trusted` as in `TRUSTED_PROXIES`.

        Raises:
            ValueError: there is no such source, or an address is none.
        """
        self._sources = [_source(each) for each in sources]
        names = (name for source in self._sources for name in _headers(*source))
        self.headers = frozenset(name.encode("latin-1", "replace") for name in names)
        """Names in lower case of those that are looked at."""
        self._unix = False
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for each in trusted:
            if each == _UNIX:
                self._unix = True
            else:
                self._networks.append(ipaddress.ip_network(each, strict=False))
        # Proxies are few, and to read an address costs more than all else here.
        self._is_trusted = lru_cache(_PEERS)(self._trusts)
        self._keys = {digest.lower(): name for digest, name in (api_keys or {}).items()}

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Callers:
        """As the variables above say.

        Raises:
            ValueError: one of them is wrong, or the file of keys is.
            OSError: that file cannot be read.
        """
        path = environ.get(API_KEYS)
        found: object = {} if not path else json.loads(Path(path).read_text("utf-8"))
        if not isinstance(found, dict):
            message = f"{path}: not an object of digests and names"
            raise ValueError(message)  # noqa: TRY004 - of what the file says
        keys = {
            str(digest): str(name) for digest, name in cast("dict[object, object]", found).items()
        }
        return cls(_list(environ.get(TENANT_FROM)), _list(environ.get(TRUSTED_PROXIES)), keys)

    def tenant(self, headers: Headers, peer: str | None) -> str | None:
        """Who sent `headers`; `peer` is the address that it came from, None of a Unix socket."""
        believed = self._is_trusted(peer) if self._sources else False
        for kind, name in self._sources:
            found: str | None = None
            if kind == "api-key":
                found = self._of_key(headers)
            elif believed and kind == "header":
                found = headers.get(name)
            elif believed:
                found = _baggage(headers.get("baggage", ""), name)
            if found:
                return found
        return None

    def _trusts(self, peer: str | None) -> bool:
        if peer is None:
            return self._unix
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:  # a server's own word, such as `testclient`
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._networks)

    def _of_key(self, headers: Headers) -> str | None:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            key = headers.get("x-api-key", "")
        key = key.strip()
        return self._keys.get(hashlib.sha256(key.encode()).hexdigest()) if key else None


def _source(text: str) -> tuple[str, str]:
    kind, _, name = text.partition(":")
    if (kind in {"header", "baggage"} and name) or text == "api-key":
        return kind, name.lower() if kind == "header" else name
    message = f"no source of tenants: {text!r}; there are header:NAME, baggage:KEY and api-key"
    raise ValueError(message)


def _headers(kind: str, name: str) -> tuple[str, ...]:
    if kind == "api-key":
        return ("authorization", "x-api-key")
    return (name,) if kind == "header" else ("baggage",)


def _list(text: str | None) -> list[str]:
    return [each.strip() for each in (text or "").split(",") if each.strip()]


def _baggage(header: str, key: str) -> str | None:
    """A member of W3C baggage, without its properties."""
    for member in header.split(","):
        name, equals, value = member.partition(";")[0].partition("=")
        if equals and name.strip() == key:
            return unquote(value.strip()) or None
    return None
