"""Exports as engines and instrumentations send them, made here."""

from __future__ import annotations

from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from apportion.core.clock import SystemClock

SECOND = 1_000_000_000


def add(target: Any, **attributes: object) -> None:
    """Add attributes, `__` in a name for a dot, by the type of each value."""
    for name, value in attributes.items():
        pair = target.attributes.add()
        pair.key = name.replace("__", ".")
        kinds = {"bool": "bool_value", "int": "int_value", "float": "double_value"}
        setattr(pair.value, kinds.get(type(value).__name__, "string_value"), value)


def request(message: ExportTraceServiceRequest, number: int, **attributes: object) -> Span:
    """A request of half a second that ended just now, as vLLM reports one."""
    scope = message.resource_spans[0].scope_spans[0]
    span = scope.spans.add()
    span.name = "llm_request"
    span.kind = Span.SPAN_KIND_SERVER
    span.trace_id, span.span_id = number.to_bytes(16, "big"), number.to_bytes(8, "big")
    span.end_time_unix_nano = SystemClock().realtime_ns()
    span.start_time_unix_nano = span.end_time_unix_nano - SECOND // 2
    said: dict[str, object] = {
        "gen_ai__request__id": f"cmpl-{number}-0",
        "gen_ai__usage__prompt_tokens": 100 + number,
        "gen_ai__usage__completion_tokens": number,
        "gen_ai__latency__time_in_queue": 0.1,
        "gen_ai__latency__time_to_first_token": 0.2,
    }
    add(span, **{**said, **attributes})
    return span


def export(service: str | None = "tiny", **resource: object) -> ExportTraceServiceRequest:
    """An export without spans."""
    message = ExportTraceServiceRequest()
    group = message.resource_spans.add()
    if service is not None:
        add(group.resource, service__name=service)
    add(group.resource, **resource)
    group.scope_spans.add()
    return message


def exported(count: int, service: str | None = "tiny") -> ExportTraceServiceRequest:
    """An export of so many requests, numbered from 1."""
    message = export(service)
    for number in range(1, count + 1):
        request(message, number)
    return message
