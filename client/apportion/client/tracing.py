"""OpenTelemetry's current span, for users who ask for it: `init(otel=True)`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from apportion.client.counting import count

_NO_TRACE = b""


def current_trace() -> Callable[[], bytes] | None:
    """A function that gives trace id and span id (24 bytes) of the current span, or nothing.

    None where opentelemetry cannot be imported. A call costs about half a microsecond.
    """
    try:
        get_current_span: Any = importlib.import_module("opentelemetry.trace").get_current_span
    except Exception:  # noqa: BLE001 - an installation that fails to import is a missing one
        return None

    def read() -> bytes:
        try:
            context = get_current_span().get_span_context()
            if not context.is_valid:
                return _NO_TRACE
            trace: bytes = context.trace_id.to_bytes(16, "big")
            span: bytes = context.span_id.to_bytes(8, "big")
        except Exception:  # noqa: BLE001 - whatever it raises, the span goes on
            count("internal_error")
            return _NO_TRACE
        return trace + span

    return read
