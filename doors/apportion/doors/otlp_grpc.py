"""OTLP over gRPC: the trace service."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any, Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from apportion.doors.door import Busy, Door
from apportion.doors.otlp_http import AT_ONCE, MOST_BYTES

grpc: Final[Any] = import_module("grpc")  # it has no types
_SERVICE: Final = "opentelemetry.proto.collector.trace.v1.TraceService"


def create_server(door: Door, address: str) -> tuple[Any, int]:
    """A server that is bound and not started, and its port.

    Raises:
        OSError: the address cannot be bound.
    """
    server = grpc.server(
        ThreadPoolExecutor(AT_ONCE, thread_name_prefix="otlp-grpc"),
        maximum_concurrent_rpcs=2 * AT_ONCE,  # one more is sent away: RESOURCE_EXHAUSTED
        compression=grpc.Compression.NoCompression,
        options=[
            ("grpc.max_receive_message_length", MOST_BYTES),
            ("grpc.so_reuseport", 0),
        ],
    )

    def export(data: bytes, context: Any) -> ExportTraceServiceResponse:
        made = ExportTraceServiceResponse()
        try:
            answer = door.take(ExportTraceServiceRequest.FromString(data))
        except DecodeError:
            door.broken()
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no ExportTraceServiceRequest")
        except Busy:
            context.abort(grpc.StatusCode.UNAVAILABLE, "too many requests a second")
        except OSError as error:
            context.abort(grpc.StatusCode.UNAVAILABLE, f"no ring can be written: {error.strerror}")
        else:
            if answer.rejected:
                made.partial_success.rejected_spans = answer.rejected
                made.partial_success.error_message = answer.message
        return made

    handler = grpc.unary_unary_rpc_method_handler(
        export, response_serializer=ExportTraceServiceResponse.SerializeToString
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(_SERVICE, {"Export": handler}),)
    )
    try:
        port: int = server.add_insecure_port(address)
    except RuntimeError as error:
        message = f"cannot listen on {address}"
        raise OSError(message) from error
    return server, port
