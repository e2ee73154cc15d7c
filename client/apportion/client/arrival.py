"""A request of an ASGI server as it arrives: its id, its trace, and who asks.

Of the request only headers are read, and where the tenant is the address, the peer's. The span
that is made of them has not begun.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Any, Final

from apportion.client.caller import Callers, Headers
from apportion.client.counting import count
from apportion.client.serving import request
from apportion.client.span import Span
from apportion.client.vllm.installed import server_logger

Message = MutableMapping[str, Any]
"""What ASGI passes: a connection's scope, or one message of it."""

REQUEST_ID: Final = b"x-request-id"
_TRACEPARENT: Final = b"traceparent"


class Arrivals:
    """Makes a span of each request, with the tenant that `callers` find."""

    def __init__(self, callers: Callers | None = None) -> None:
        """Without `callers` the variables say who the tenant is; where one is wrong, nobody is."""
        self._callers = _callers() if callers is None else callers
        self._read = self._callers.headers | {REQUEST_ID, _TRACEPARENT}

    def begun(self, scope: Message, model: str | None) -> tuple[Message, str, Span]:
        """What the app is given, the request's id, and the span, which has not begun."""
        headers = {
            name.decode("latin-1"): _text(value)
            for each, value in reversed(scope["headers"])
            if (name := each.lower()) in self._read
        }
        request_id = headers.get("x-request-id")
        if not request_id:
            request_id = os.urandom(16).hex()
            others = [each for each in scope["headers"] if bytes(each[0]).lower() != REQUEST_ID]
            scope = {**scope, "headers": [*others, (REQUEST_ID, request_id.encode())]}
        return scope, request_id, self._span(request_id, model, headers, scope.get("client"))

    def _span(self, request_id: str, model: str | None, headers: Headers, peer: Any) -> Span:
        tenant = None
        try:
            tenant = self._callers.tenant(headers, peer[0] if peer else None)
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("internal_error")
        traceparent = headers.get("traceparent")
        return request(request_id, tenant=tenant, model=model, traceparent=traceparent)


def _text(value: bytes) -> str:
    """As clients write names; a header may be any bytes."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _callers() -> Callers:
    try:
        return Callers.of(os.environ)
    except (ValueError, OSError) as error:
        count("tenants_unknown")
        server_logger().warning("apportion: requests have no tenant: %s", error)
        return Callers()
