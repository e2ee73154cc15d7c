"""A line of SGLang's request log (`--export-metrics-to-file`) as a request.

A line is a JSON object: the response's `meta_info`, and `request_parameters`, a text that is JSON
again. Depending on SGLang's log level it holds prompts, tokens and log-probabilities: of all
members but those named here nothing is looked at, kept or said, not even in an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, cast

from apportion.client.encoding import trace_field
from apportion.doors.told_request import NO_PARENT, NO_TRACE, Malformed, ToldRequest

_NS: Final = 1_000_000_000
_MOST: Final = 1 << 53
_MOST_RANKS: Final = 1 << 32
_TEXT_CHARACTERS: Final = 256
_LATEST_S: Final = 1 << 33
_SERVER_ERROR: Final = 400

_FIRST_TOKEN: Final = ("prefill_finished_time", "prefill_finished_ts")
_RETRACTIONS: Final = ("num_retractions", "total_retractions")


def told_request(
    line: bytes, service: str, tenant_label: str | None = None
) -> ToldRequest | Malformed:
    """The request that a line tells of.

    `tenant_label` names the custom label (`x-custom-labels`) that says who asked.
    """
    said = _object(line)
    if said is None:
        return Malformed("the line is no JSON object")
    request_id = _text(said.get("id"))
    if request_id is None:
        return Malformed("there is no id")
    start_ns, end_ns = _time_ns(said, "request_received_ts"), _time_ns(said, "request_finished_ts")
    if start_ns is None or end_ns is None:
        return Malformed("there is no request_received_ts or request_finished_ts")
    if start_ns > end_ns:
        return Malformed("its times cannot be")
    asked = _object(said.get("request_parameters")) or {}
    labels = _members(asked, "custom_labels")
    tenant = labels.get(tenant_label) if tenant_label else None
    trace, parent = _trace(_members(asked, "external_trace_header").get("traceparent"))
    output_tokens = _count(said, "completion_tokens")
    status = _status(_members(said, "finish_reason"))
    scheduled_ns = _between(said, ("forward_entry_time",), start_ns, end_ns)
    if scheduled_ns is None and status != "ok" and not output_tokens:
        scheduled_ns = end_ns  # it was given up before the scheduler took it
    return ToldRequest(
        service,
        request_id,
        start_ns,
        end_ns,
        trace,
        parent,
        tenant=_text(tenant),
        adapter=_text(asked.get("lora_path")),
        scheduled_ns=scheduled_ns,
        first_token_ns=_between(said, _FIRST_TOKEN, scheduled_ns or start_ns, end_ns),
        input_tokens=_count(said, "prompt_tokens"),
        cached_input_tokens=_count(said, "cached_tokens"),
        output_tokens=output_tokens,
        preemptions=_count(said, *_RETRACTIONS),
        status=status,
        engine=_rank(said),
    )


def _object(text: object) -> dict[str, Any] | None:
    if not isinstance(text, (str, bytes)):
        return None
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


def _text(value: object) -> str | None:
    return value[:_TEXT_CHARACTERS] if isinstance(value, str) and value else None


def _count(said: Mapping[str, object], *names: str) -> int | None:
    for name in names:
        value = said.get(name)
        if type(value) is int and 0 <= value < _MOST:
            return value
    return None


def _rank(said: Mapping[str, object]) -> int | None:
    """The data-parallel rank that served it; a server without any may say null."""
    rank = _count(said, "dp_rank")
    return rank if rank is not None and rank < _MOST_RANKS else None


def _time_ns(said: Mapping[str, object], name: str) -> int | None:
    """A time that is written as seconds since 1970."""
    value = said.get(name)
    if type(value) not in {int, float} or not 0 < cast("float", value) < _LATEST_S:
        return None  # NaN too
    return round(cast("float", value) * _NS)


def _between(
    said: Mapping[str, object], names: tuple[str, ...], least_ns: int, most_ns: int
) -> int | None:
    for name in names:
        time_ns = _time_ns(said, name)
        if time_ns is not None:
            return min(max(time_ns, least_ns), most_ns)
    return None


def _members(said: Mapping[str, object], name: str) -> dict[str, Any]:
    """Those of an object within another; none where it is no object."""
    value = said.get(name)
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _status(reason: Mapping[str, object]) -> str:
    """An abort is the caller's, unless it carries an HTTP status that says otherwise."""
    if reason.get("type") != "abort":
        return "ok"
    code = reason.get("status_code")
    return "error" if isinstance(code, int) and code >= _SERVER_ERROR else "cancelled"


def _trace(traceparent: object) -> tuple[bytes, bytes]:
    field = b"" if traceparent is None else trace_field(traceparent)
    return (field[:16], field[16:]) if field else (NO_TRACE, NO_PARENT)
