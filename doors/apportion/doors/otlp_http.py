"""OTLP over HTTP: POST /v1/traces, protobuf and JSON, gzip; as the specification has it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import zlib
from typing import Any, Final, cast

from fastapi import FastAPI, Request, Response
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from apportion.doors.door import Busy, Door

MOST_BYTES: Final = 16 << 20
"""Of one export, before and after decompression."""
AT_ONCE: Final = 4
"""Exports that are read at the same time: 128 MiB, whatever is sent."""
PROTOBUF, JSON = "application/x-protobuf", "application/json"
_IDS: Final = ("traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id")
_INVALID_ARGUMENT, _RESOURCE_EXHAUSTED, _UNAVAILABLE = 3, 8, 14


class Refused(Exception):
    """An export that is not taken: the HTTP status, gRPC's code for it, and a sentence."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def create_app(door: Door) -> FastAPI:
    """The application. It reads at most `AT_ONCE` exports at a time, and sends others away."""
    app = FastAPI(title="apportion's OTLP door", docs_url=None, redoc_url=None, openapi_url=None)
    room = asyncio.Semaphore(AT_ONCE)

    @app.post("/v1/traces", include_in_schema=False)
    async def traces(request: Request) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        form = JSON if kind == JSON else PROTOBUF
        try:
            _check(kind)
            if room.locked():
                door.busy()
                return _refusal(Refused(429, _RESOURCE_EXHAUSTED, "too many exports"), form)
            async with room:
                body = await _body(request)
                answer = await asyncio.to_thread(_taken, door, body, request, form)
        except Refused as refused:
            if refused.code == _INVALID_ARGUMENT:
                door.broken()
            return _refusal(refused, form)
        return _response(answer, form, 200, {})

    return app


def _check(kind: str) -> None:
    if kind not in {PROTOBUF, JSON}:
        raise Refused(415, _INVALID_ARGUMENT, f"send {PROTOBUF} or {JSON}")


async def _body(request: Request) -> bytes:
    found = bytearray()
    async for piece in request.stream():
        found += piece
        if len(found) > MOST_BYTES:
            raise _too_large()
    return bytes(found)


def _taken(door: Door, body: bytes, request: Request, form: str) -> ExportTraceServiceResponse:
    body = _plain(body, request.headers.get("content-encoding", "identity").strip().lower())
    message = _from_json(body) if form == JSON else _from_protobuf(body)
    try:
        answer = door.take(message)
    except Busy:
        raise Refused(429, _RESOURCE_EXHAUSTED, "too many requests a second") from None
    except OSError as error:
        raise Refused(503, _UNAVAILABLE, f"no ring can be written: {error.strerror}") from None
    made = ExportTraceServiceResponse()
    if answer.rejected:
        made.partial_success.rejected_spans = answer.rejected
        made.partial_success.error_message = answer.message
    return made


def _plain(body: bytes, encoding: str) -> bytes:
    if encoding in {"identity", ""}:
        return body
    if encoding != "gzip":
        raise Refused(415, _INVALID_ARGUMENT, "of encodings there is gzip alone")
    unpack = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        found = unpack.decompress(body, MOST_BYTES + 1)
    except zlib.error:
        raise Refused(400, _INVALID_ARGUMENT, "the body is no gzip") from None
    if len(found) > MOST_BYTES:
        raise _too_large()
    if not unpack.eof:
        raise Refused(400, _INVALID_ARGUMENT, "the gzip ends too early")
    return found


def _too_large() -> Refused:
    return Refused(413, _INVALID_ARGUMENT, f"an export is at most {MOST_BYTES} bytes")


def _from_protobuf(body: bytes) -> ExportTraceServiceRequest:
    try:
        return ExportTraceServiceRequest.FromString(body)
    except DecodeError:
        raise Refused(400, _INVALID_ARGUMENT, "the body is no ExportTraceServiceRequest") from None


def _from_json(body: bytes) -> ExportTraceServiceRequest:
    """OTLP's JSON writes ids in hexadecimal, where protobuf's own JSON has base64."""
    try:
        found: object = json.loads(body, object_hook=_with_base64)
        if not isinstance(found, dict):
            raise Refused(400, _INVALID_ARGUMENT, "the body is no OTLP JSON")
        said = cast("dict[str, Any]", found)
        return json_format.ParseDict(said, ExportTraceServiceRequest(), ignore_unknown_fields=True)
    except (ValueError, TypeError, RecursionError, json_format.ParseError):
        raise Refused(400, _INVALID_ARGUMENT, "the body is no OTLP JSON") from None


def _with_base64(found: dict[str, Any]) -> dict[str, Any]:
    for name in _IDS:
        value: object = found.get(name)
        if isinstance(value, str):
            try:
                found[name] = base64.b64encode(binascii.unhexlify(value)).decode()
            except (binascii.Error, ValueError):
                message = f"{name} is no hexadecimal"
                raise ValueError(message) from None
    return found


def _refusal(refused: Refused, form: str) -> Response:
    headers = {"Retry-After": "1"} if refused.status in {429, 503} else {}
    status = Status(code=refused.code, message=refused.message)
    return _response(status, form, refused.status, headers)


def _response(message: Message, form: str, status: int, headers: dict[str, str]) -> Response:
    if form == JSON:
        content = json_format.MessageToJson(message, indent=None).encode()
    else:
        content = message.SerializeToString()
    return Response(content, status, headers, media_type=form)
