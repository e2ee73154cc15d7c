"""Which OpenTelemetry spans are requests, and what they say."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from tests.doors.exported import SECOND, add, export, exported, request

from apportion.doors.llm_span import LlmSpan, llm_spans
from apportion.doors.told_request import Malformed, ToldRequest


def one(*, tenant: Any = None, spoil: Any = None, **attributes: object) -> Any:
    """What is made of one span."""
    message = export(team="search")
    span = request(message, 7, **attributes)
    if spoil is not None:
        spoil(span)
    (found,) = llm_spans(message, tenant)
    return found.request if isinstance(found, LlmSpan) else found


def test_vllms_request() -> None:
    """Times are durations after the arrival; tokens have the names from before 1.27."""
    found = one()
    assert isinstance(found, ToldRequest)
    assert (found.service, found.request_id, found.status) == ("tiny", "cmpl-7-0", "ok")
    assert (found.input_tokens, found.cached_input_tokens, found.output_tokens) == (107, None, 7)
    assert found.scheduled_ns == found.start_ns + SECOND // 10
    assert found.first_token_ns == found.start_ns + SECOND // 5
    assert found.end_ns == found.start_ns + SECOND // 2
    assert (found.trace, found.parent) == ((7).to_bytes(16, "big"), bytes(8))


@pytest.mark.parametrize(
    ("attributes", "counts"),
    [
        ({"gen_ai__usage__input_tokens": 5}, (5, None, 7)),
        ({"gen_ai__usage__output_tokens": 6}, (107, None, 6)),
        ({"gen_ai__usage__cached_tokens": 9}, (107, 9, 7)),
        ({"gen_ai__usage__cache_read__input_tokens": 9}, (107, 9, 7)),
        ({"gen_ai__usage__cached_tokens": -1}, (107, None, 7)),
        ({"gen_ai__usage__cached_tokens": 1 << 60}, (107, None, 7)),
        ({"gen_ai__usage__cached_tokens": "9"}, (107, None, 7)),
    ],
)
def test_names_of_both_times(attributes: dict[str, object], counts: tuple[object, ...]) -> None:
    """The present convention comes before the old one; what is no count is not said."""
    found = one(**attributes)
    assert (found.input_tokens, found.cached_input_tokens, found.output_tokens) == counts


def test_an_instrumented_server() -> None:
    """A span of another name counts by its operation; its caller's view and its tools do not."""
    message = export()
    for number, (kind, attributes) in enumerate(
        [
            (Span.SPAN_KIND_SERVER, {"gen_ai__operation__name": "chat"}),
            (Span.SPAN_KIND_INTERNAL, {}),
            (Span.SPAN_KIND_CLIENT, {"gen_ai__operation__name": "chat"}),
            (Span.SPAN_KIND_INTERNAL, {"gen_ai__operation__name": "execute_tool"}),
        ],
        1,
    ):
        span = request(message, number, **attributes)
        span.name, span.kind = "chat llama", kind
    other = message.resource_spans[0].scope_spans[0].spans.add()
    other.name = "GET /health"
    found = list(llm_spans(message))
    assert [span.request.request_id for span in found if isinstance(span, LlmSpan)] == [
        "cmpl-1-0",
        "cmpl-2-0",
    ]
    assert 2 == len(found)


def test_who_asked_and_what() -> None:
    """A tenant is believed of the attribute that was named, of the span before its resource."""
    assert one().tenant is None
    assert one(tenant="team").tenant == "search"
    assert one(tenant="team", team="ads").tenant == "ads"
    assert one(gen_ai__request__model="llama").model == "llama"
    assert (
        one(gen_ai__request__model="llama", gen_ai__response__model="llama-8b").model == "llama-8b"
    )


def test_without_names() -> None:
    """A request without an id has its span's, a service without a name is called unknown."""
    message = exported(1, service=None)
    del message.resource_spans[0].scope_spans[0].spans[0].attributes[0]
    (span,) = llm_spans(message)
    assert isinstance(span, LlmSpan)
    found = span.request
    assert (found.service, found.request_id) == ("unknown_service", f"{1:016x}")


@pytest.mark.parametrize(
    ("scope", "given", "known"),
    [
        ("vllm.tracing.otel", "cmpl-mine-0", "mine"),
        ("vllm.llm_engine", "chatcmpl-mine", "mine"),
        ("vllm.tracing.otel", "1_cmpl-mine-0", "mine"),
        ("sglang", "cmpl-mine-0", "cmpl-mine-0"),
    ],
)
def test_ids_are_those_of_the_callers(scope: str, given: str, known: str) -> None:
    """So that one request has one id, whichever door tells of it; others' are left alone."""
    message = export()
    request(message, 1, gen_ai__request__id=given)
    message.resource_spans[0].scope_spans[0].scope.name = scope
    (span,) = llm_spans(message)
    assert isinstance(span, LlmSpan)
    assert span.request.request_id == known


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1e9, "0.1", True])
def test_durations_that_cannot_be(value: object) -> None:
    """A time that is nonsense is unsaid, and one beyond the end is the end."""
    assert one(gen_ai__latency__time_in_queue=value).scheduled_ns is None
    found = one(gen_ai__latency__time_to_first_token=100.0)
    assert found.first_token_ns == found.end_ns


def test_errors_and_malformed_spans() -> None:
    """A failed request is one; a span whose times or ids cannot be is refused with a reason."""

    def fails(span: Span) -> None:
        span.status.code = Status.STATUS_CODE_ERROR

    def backwards(span: Span) -> None:
        span.start_time_unix_nano = span.end_time_unix_nano + 1

    def nameless(span: Span) -> None:
        span.trace_id = b""

    assert one(spoil=fails).status == "error"
    assert one(spoil=backwards) == Malformed("its times cannot be")
    assert one(spoil=nameless) == Malformed("an id has the wrong length")


def test_texts_are_bounded() -> None:
    """A hostile name costs a bounded amount."""
    message = export(service="s" * 10_000)
    add(request(message, 1), gen_ai__request__model="m" * 10_000)
    (span,) = llm_spans(message)
    assert isinstance(span, LlmSpan)
    found = span.request
    assert (len(found.service), len(found.model or "")) == (256, 256)
