"""Who a request's tenant is, and who may say so."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from apportion.client.caller import API_KEYS, TENANT_FROM, TRUSTED_PROXIES, Callers

KEY = "sk-secret"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
HEADERS = {
    "x-tenant": "search",
    "baggage": "team=nlp, tenant=ads%20eu;ttl=5",
    "authorization": f"Bearer {KEY}",
}


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["header:X-Tenant"], "search"),
        (["header:x-absent", "baggage:tenant"], "ads eu"),
        (["baggage:absent"], None),
        (["api-key", "header:x-tenant"], "platform"),
        ([], None),
    ],
)
def test_the_first_source_that_knows(sources: list[str], expected: str | None) -> None:
    """Sources are asked in their order, of a trusted proxy."""
    callers = Callers(sources, ["10.0.0.0/8"], {DIGEST.upper(): "platform"})
    assert callers.tenant(HEADERS, "10.1.2.3") == expected


@pytest.mark.parametrize(
    ("peer", "trusted", "believed"),
    [
        ("10.1.2.3", ["10.0.0.0/8"], True),
        ("11.1.2.3", ["10.0.0.0/8"], False),
        ("::ffff:10.1.2.3", ["10.0.0.0/8"], True),
        ("fd00::1", ["10.0.0.0/8", "fd00::/8"], True),
        ("127.0.0.1", [], False),
        ("testclient", ["0.0.0.0/0"], False),
        (None, ["0.0.0.0/0"], False),
        (None, ["unix"], True),
    ],
)
def test_headers_of_strangers_name_nobody(
    peer: str | None, trusted: list[str], believed: bool
) -> None:
    """A name is believed of listed proxies alone; nobody is listed unless somebody lists them."""
    callers = Callers(["header:x-tenant", "baggage:tenant"], trusted)
    assert (callers.tenant(HEADERS, peer) == "search") is believed


def test_it_says_which_headers_it_reads() -> None:
    """No other one of a request is kept, not even for a moment; an odd name is not there."""
    sources = ["header:X-Tenant", "baggage:tenant", "api-key", "header:\u20ac"]
    known = {b"x-tenant", b"baggage", b"authorization", b"x-api-key", b"?"}
    assert Callers(sources).headers == known
    assert Callers().headers == frozenset()


def test_an_api_key_proves_itself() -> None:
    """It needs no trusted proxy; an unknown one is nobody, and the key is in no attribute."""
    callers = Callers(["api-key"], [], {DIGEST: "platform"})
    assert callers.tenant(HEADERS, "8.8.8.8") == "platform"
    assert callers.tenant({"x-api-key": KEY}, None) == "platform"
    assert callers.tenant({"authorization": "Bearer other"}, None) is None
    assert callers.tenant({"authorization": "Basic abc"}, None) is None
    assert KEY not in repr(vars(callers))


def test_from_variables(tmp_path: Path) -> None:
    """The three variables, and what is wrong with them, in a sentence."""
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({DIGEST: "platform"}))
    environ = {
        TENANT_FROM: "api-key, header:x-tenant",
        TRUSTED_PROXIES: "unix",
        API_KEYS: str(keys),
    }
    callers = Callers.of(environ)
    assert callers.tenant(HEADERS, None) == "platform"
    assert callers.tenant({"x-tenant": "search"}, None) == "search"
    assert Callers.of({}).tenant(HEADERS, None) is None
    with pytest.raises(ValueError, match="no source of tenants: 'cookie'"):
        Callers.of({TENANT_FROM: "cookie"})
    with pytest.raises(ValueError, match=r"10\.0\.0"):
        Callers.of({TRUSTED_PROXIES: "10.0.0"})
    keys.write_text("[]")
    with pytest.raises(ValueError, match="not an object"):
        Callers.of(environ)
