"""What the headers of a request say, before the app sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.client.decoded import labels, only, request_id

from apportion import client
from apportion.client.arrival import Arrivals
from apportion.client.caller import Callers


def scope(*headers: tuple[bytes, bytes], peer: tuple[str, int] | None = None) -> dict[str, Any]:
    """A request's, as a server of ASGI 3 gives it."""
    return {"type": "http", "path": "/v1/completions", "headers": [*headers], "client": peer}


def test_the_first_of_two_ids_is_the_requests(directory: Path) -> None:
    """As servers read them, in whatever case they come; the app is given what came."""
    came = scope((b"X-Request-Id", b"mine"), (b"x-request-id", b"yours"))
    given, asked, span = Arrivals().begun(came, "llama")
    assert (given is came, asked) == (True, "mine")
    with span:
        pass
    (record,) = only(directory).records
    assert request_id(record["request_id"]) == ("mine", False)


def test_an_empty_id_is_replaced() -> None:
    """The app sees one id, the new one, and what came is left as it was."""
    came = scope((b"X-Request-Id", b""), (b"accept", b"*/*"))
    given, asked, _ = Arrivals().begun(came, None)
    assert given["headers"] == [(b"accept", b"*/*"), (b"x-request-id", asked.encode())]
    assert came["headers"][0] == (b"X-Request-Id", b"")


@pytest.mark.parametrize(("value", "tenant"), [(b"caf\xc3\xa9", "café"), (b"caf\xe9", "café")])
def test_a_header_may_be_any_bytes(directory: Path, value: bytes, tenant: str) -> None:
    """A name in UTF-8 or in what HTTP once said is the same tenant."""
    callers = Callers(["header:x-tenant"], ["127.0.0.1"])
    came = scope((b"x-tenant", value), peer=("127.0.0.1", 1))
    with Arrivals(callers).begun(came, "llama")[2]:
        pass
    found = only(directory)
    (record,) = found.records
    assert labels(found, record)[:2] == [tenant, "llama"]


def test_nobody_asks_where_no_peer_is_known(directory: Path) -> None:
    """A server on a Unix socket knows no address: the header is not trusted, nothing is raised."""
    callers = Callers(["header:x-tenant"], ["127.0.0.1"])
    with Arrivals(callers).begun(scope((b"x-tenant", b"search")), None)[2]:
        pass
    found = only(directory)
    (record,) = found.records
    assert labels(found, record)[0] is None
    assert client.counts() == {}
