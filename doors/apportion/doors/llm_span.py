"""Requests in OpenTelemetry spans: vLLM's and SGLang's `llm_request`, and `gen_ai.*` of others.

Names are those of the GenAI semantic conventions, the present ones and those before 1.27, which the
engines still use. Prompts and completions, which some instrumentations attach, are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from apportion.client.engine import ids_within
from apportion.doors.told_request import NO_PARENT, Malformed, ToldRequest

REQUEST: Final = "llm_request"
_VLLM: Final = "vllm."
"""vLLM's scopes: around a caller's id it puts marks of its own."""
SERVICE: Final = "service.name"
UNNAMED_SERVICE: Final = "unknown_service"
OPERATIONS: Final = frozenset({"chat", "text_completion", "generate_content", "embeddings"})
_MOST: Final = 1 << 53
_MOST_SECONDS: Final = 86_400
_TEXT_CHARACTERS: Final = 256

_ID: Final = ("gen_ai.request.id", "gen_ai.response.id")
_MODEL: Final = ("gen_ai.response.model", "gen_ai.request.model")
_INPUT: Final = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens")
_OUTPUT: Final = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens")
_CACHED: Final = (
    "gen_ai.usage.cache_read.input_tokens",
    "gen_ai.usage.cached_tokens",
    "gen_ai.usage.cache_read_input_tokens",
)
_QUEUE: Final = ("gen_ai.latency.time_in_queue",)
_FIRST: Final = (
    "gen_ai.latency.time_to_first_token",
    "gen_ai.server.time_to_first_token",
    "gen_ai.response.time_to_first_chunk",
)


class LlmSpan(NamedTuple):
    """A request, and the 24 bytes (trace id, span id) by which the same span is known again."""

    key: bytes
    request: ToldRequest


def llm_spans(
    message: ExportTraceServiceRequest, tenant_attribute: str | None = None
) -> Iterator[LlmSpan | Malformed]:
    """The requests in one export. Spans of other kinds are not mentioned.

    A CLIENT span is the caller's view of a request that its server reports, too: it is none. An id
    of vLLM's is given as its caller's, under which the middleware would know it.
    `tenant_attribute` is that of a span, or of its resource, that names who asked.
    """
    for group in message.resource_spans:
        resource = _attributes(group.resource.attributes)
        service = _text(resource, (SERVICE,)) or UNNAMED_SERVICE
        for scope in group.scope_spans:
            of_vllm = scope.scope.name.startswith(_VLLM)
            for span in scope.spans:
                said = _attributes(span.attributes)
                if _is_request(span, said):
                    tenant = None
                    if tenant_attribute is not None:
                        names = (tenant_attribute,)
                        tenant = _text(said, names) or _text(resource, names)
                    yield _request(service, tenant, span, said, of_vllm=of_vllm)


def _is_request(span: Span, said: Mapping[str, AnyValue]) -> bool:
    if span.kind == Span.SPAN_KIND_CLIENT:
        return False
    if span.name == REQUEST:
        return True
    operation = _text(said, ("gen_ai.operation.name",))
    tokens = any(name in said for name in (*_INPUT, *_OUTPUT))
    return tokens and (operation is None or operation in OPERATIONS)


def _request(
    service: str,
    tenant: str | None,
    span: Span,
    said: Mapping[str, AnyValue],
    *,
    of_vllm: bool,
) -> LlmSpan | Malformed:
    if len(span.trace_id) != 16 or len(span.span_id) != 8:
        return Malformed("an id has the wrong length")
    start_ns, end_ns = span.start_time_unix_nano, span.end_time_unix_nano
    if not 0 < start_ns <= end_ns < 1 << 63:
        return Malformed("its times cannot be")

    def after(names: Iterable[str]) -> int | None:
        duration_s = _seconds(said, names)
        return None if duration_s is None else min(end_ns, start_ns + round(duration_s * 1e9))

    request_id = _text(said, _ID) or span.span_id.hex()
    request = ToldRequest(
        service,
        next(ids_within(request_id)) if of_vllm else request_id,
        start_ns,
        end_ns,
        span.trace_id,
        span.parent_span_id if len(span.parent_span_id) == 8 else NO_PARENT,
        tenant,
        _text(said, _MODEL),
        scheduled_ns=after(_QUEUE),
        first_token_ns=after(_FIRST),
        input_tokens=_count(said, _INPUT),
        cached_input_tokens=_count(said, _CACHED),
        output_tokens=_count(said, _OUTPUT),
        status="error" if span.status.code == Status.STATUS_CODE_ERROR else "ok",
    )
    return LlmSpan(span.trace_id + span.span_id, request)


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, AnyValue]:
    return {pair.key: pair.value for pair in pairs}


def _text(said: Mapping[str, AnyValue], names: Iterable[str]) -> str | None:
    for name in names:
        value = said.get(name)
        if value is not None and value.string_value:
            return value.string_value[:_TEXT_CHARACTERS]
    return None


def _count(said: Mapping[str, AnyValue], names: Iterable[str]) -> int | None:
    for name in names:
        value = said.get(name)
        if value is not None and value.HasField("int_value") and 0 <= value.int_value < _MOST:
            return value.int_value
    return None


def _seconds(said: Mapping[str, AnyValue], names: Iterable[str]) -> float | None:
    for name in names:
        value = said.get(name)
        if value is None:
            continue
        whole = value.HasField("int_value")
        if whole or value.HasField("double_value"):
            seconds = float(value.int_value) if whole else value.double_value
            if 0 <= seconds < _MOST_SECONDS:  # false for NaN
                return seconds
    return None
