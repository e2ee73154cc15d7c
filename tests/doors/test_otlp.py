"""The OTLP door over HTTP and gRPC, and the rings that it leaves."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import random
import socket
import zlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from google.protobuf import json_format
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from tests.client.decoded import labels, only, request_id, rings
from tests.doors.exported import SECOND, export, exported, request

from apportion.client import layout
from apportion.doors.door import MOST_PER_SECOND, Door
from apportion.doors.otlp import main
from apportion.doors.otlp_grpc import create_server
from apportion.doors.otlp_http import MOST_BYTES, create_app
from apportion.doors.span_rings import MOST_SERVICES, SpanRings

grpc: Any = import_module("grpc")  # it has no types
STUBS: Any = import_module("opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc")
PROTOBUF = {"Content-Type": "application/x-protobuf"}
JSON = {"Content-Type": "application/json"}
GZIP = {"Content-Encoding": "gzip"}
FIXTURES = os.environ.get("APPORTION_FIXTURES")


class Clock:
    """Seconds that pass when told."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def door(tmp_path: Path, clock: Clock) -> Iterator[Door]:
    """A door whose rings are in the test's own directory."""
    made = SpanRings(tmp_path, {"tiny": ["GPU-1", "GPU-2"]})
    yield Door(made, "team", clock)
    made.close()


class Http:
    """The application, asked as over HTTP."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def post(self, path: str, *, content: bytes | str, headers: dict[str, str]) -> httpx.Response:
        """The answer to one export."""

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://door") as caller:
                return await caller.post(path, content=content, headers=headers)

        return asyncio.run(ask())


@pytest.fixture
def http(door: Door) -> Http:
    return Http(create_app(door))


def accepted(body: bytes) -> ExportTraceServiceResponse:
    return ExportTraceServiceResponse.FromString(body)


def test_protobuf_over_http(http: Http, door: Door, tmp_path: Path) -> None:
    """Every request of an export is a record, with the times, ids and tokens that it said."""
    message = exported(3)
    done = http.post("/v1/traces", content=message.SerializeToString(), headers=PROTOBUF)
    assert (done.status_code, done.headers["content-type"]) == (200, PROTOBUF["Content-Type"])
    assert accepted(done.content) == ExportTraceServiceResponse()
    found = only(tmp_path)
    assert found.identity["workload"] == "tiny"
    assert found.identity["devices"] == ["GPU-1", "GPU-2"]
    assert [request_id(each["request_id"])[0] for each in found.records] == [
        "cmpl-1-0",
        "cmpl-2-0",
        "cmpl-3-0",
    ]
    record = found.records[0]
    assert (record["kind"], record["status"]) == (
        layout.KINDS["request"],
        layout.STATUSES["ok"],
    )
    assert record["flags"] == layout.FLAG_NO_OPEN_SLOT
    tokens = [record[name] for name in layout.COUNTERS[:3]]
    assert tokens == [101, layout.ABSENT, 1]
    start_ns = record["start_ns"]
    assert [record[name] - start_ns for name in ("scheduled_ns", "first_token_ns", "end_ns")] == [
        100_000_000,
        200_000_000,
        500_000_000,
    ]
    assert record["trace_id"] == (1).to_bytes(16, "big")
    assert labels(found, record) == [None, None, None]
    assert door.counts == {"accepted": 3, "ignored": 0}


def test_json_over_http(http: Http, door: Door, tmp_path: Path) -> None:
    """OTLP's JSON has ids in hexadecimal and unknown fields; the answer is JSON, too."""
    found = json_format.MessageToDict(exported(2))
    for number, span in enumerate(found["resourceSpans"][0]["scopeSpans"][0]["spans"], 1):
        span["traceId"], span["spanId"] = f"{number:032x}", f"{number:016x}"
        span["newField"] = {"from": "the future"}
    done = http.post("/v1/traces", content=json.dumps(found), headers=JSON)
    assert (done.status_code, done.json()) == (200, {})
    assert door.counts["accepted"] == 2
    assert only(tmp_path).records[1]["trace_id"] == (2).to_bytes(16, "big")


def test_over_grpc(door: Door, tmp_path: Path) -> None:
    """The official stub is understood; garbage and an export that is too large are refused."""
    server, port = create_server(door, "127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = STUBS.TraceServiceStub(channel)
            assert stub.Export(exported(5), timeout=10) == ExportTraceServiceResponse()
            assert stub.Export(exported(5), timeout=10) == ExportTraceServiceResponse()
            raw: Any = channel.unary_unary(
                "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
            )
            with pytest.raises(grpc.RpcError) as garbage:
                raw(b"\xff\xff\xff", timeout=10)
            assert garbage.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            with pytest.raises(grpc.RpcError) as large:
                raw(bytes(MOST_BYTES + 1), timeout=10)
            assert large.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    finally:
        server.stop(0).wait()
    assert 5 == len(only(tmp_path).records)
    assert door.counts == {"accepted": 5, "repeated": 5, "ignored": 0, "broken": 1}


def test_sent_again_is_taken_once(http: Http, door: Door, tmp_path: Path) -> None:
    """An exporter that saw no answer tries again: nobody pays twice."""
    body = exported(4).SerializeToString()
    for _ in range(3):
        assert http.post("/v1/traces", content=body, headers=PROTOBUF).status_code == 200
    assert 4 == len(only(tmp_path).records)
    assert door.counts["repeated"] == 8


def test_what_is_no_request_is_ignored_and_what_cannot_be_refused(http: Http, door: Door) -> None:
    """A partial success says how many were refused and why, and the others are taken."""
    message = exported(2)
    scope = message.resource_spans[0].scope_spans[0]
    scope.spans.add().name = "GET /health"
    request(message, 3).start_time_unix_nano = 1 << 63
    done = http.post("/v1/traces", content=message.SerializeToString(), headers=PROTOBUF)
    partial = accepted(done.content).partial_success
    assert (partial.rejected_spans, partial.error_message) == (1, "its times cannot be: 1")
    assert door.counts == {"accepted": 2, "ignored": 1, "malformed": 1}


def test_too_many_services(http: Http, tmp_path: Path) -> None:
    """Who makes up names cannot make up files without end."""
    message = ExportTraceServiceRequest()
    for number in range(MOST_SERVICES + 2):
        one = export(f"service-{number}")
        request(one, number + 1)
        message.MergeFrom(one)
    done = http.post("/v1/traces", content=message.SerializeToString(), headers=PROTOBUF)
    assert accepted(done.content).partial_success.rejected_spans == 2
    assert len(rings(tmp_path)) == MOST_SERVICES


def test_a_service_that_was_named_keeps_its_place(tmp_path: Path) -> None:
    """However many others were made up before it."""
    door = Door(SpanRings(tmp_path, {"mine": ["GPU-1"]}, {"other": "llama"}), None)
    for number, service in enumerate([*map(str, range(MOST_SERVICES + 1)), "mine", "other"], 1):
        message = export(service)
        request(message, number)
        door.take(message)
    assert door.counts == {"accepted": MOST_SERVICES + 2, "refused": 1, "ignored": 0}


def test_beyond_the_bound_it_says_so(http: Http, door: Door, clock: Clock) -> None:
    """More than can be taken is sent away whole, to come again; it is taken later, once."""
    first, second = export(), export()
    for number in range(MOST_PER_SECOND):
        request(first, number + 1)
    request(second, MOST_PER_SECOND + 1)
    bodies = [each.SerializeToString() for each in (first, second)]
    assert http.post("/v1/traces", content=bodies[0], headers=PROTOBUF).status_code == 200
    busy = http.post("/v1/traces", content=bodies[1], headers=PROTOBUF)
    assert (busy.status_code, busy.headers["retry-after"]) == (429, "1")
    assert Status.FromString(busy.content).message == "too many requests a second"
    clock.now_s += 1
    assert http.post("/v1/traces", content=bodies[1], headers=PROTOBUF).status_code == 200
    assert door.counts["accepted"] == MOST_PER_SECOND + 1


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        pytest.param(b"", {}, 415, id="no-type"),
        pytest.param(b"{}", {"Content-Type": "text/plain"}, 415, id="text"),
        pytest.param(b"\xff" * 40, PROTOBUF, 400, id="garbage"),
        pytest.param(b"{", JSON, 400, id="half-json"),
        pytest.param(b"[]", JSON, 400, id="list"),
        pytest.param(b"[" * 100_000, JSON, 400, id="deep-json"),
        pytest.param(b'{"resourceSpans": 5}', JSON, 400, id="wrong-json"),
        pytest.param(
            b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"xyz"}]}]}]}',
            JSON,
            400,
            id="no-hex",
        ),
        pytest.param(b"no gzip", {**PROTOBUF, **GZIP}, 400, id="no-gzip"),
        pytest.param(gzip.compress(b"half")[:-9], {**PROTOBUF, **GZIP}, 400, id="half-gzip"),
        pytest.param(b"", {**PROTOBUF, "Content-Encoding": "br"}, 415, id="brotli"),
        pytest.param(bytes(MOST_BYTES + 1), PROTOBUF, 413, id="too-large"),
        pytest.param(gzip.compress(bytes(MOST_BYTES + 1)), {**PROTOBUF, **GZIP}, 413, id="bomb"),
    ],
)
def test_bad_bodies(
    http: Http, door: Door, body: bytes, headers: dict[str, str], status: int
) -> None:
    """Each has its status and a sentence, in the form that was sent; the next one is taken."""
    done = http.post("/v1/traces", content=body, headers=headers)
    assert done.status_code == status
    if headers.get("Content-Type") == JSON["Content-Type"]:
        assert done.json()["message"]
    else:
        assert Status.FromString(done.content).message
    good = gzip.compress(exported(1).SerializeToString())
    assert http.post("/v1/traces", content=good, headers={**PROTOBUF, **GZIP}).status_code == 200
    assert (door.counts["broken"], door.counts["accepted"]) == (1, 1)


def test_a_nested_bomb_stops_at_the_bound(http: Http) -> None:
    """A gigabyte in a megabyte is never unpacked."""
    pack = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    bomb = b"".join(pack.compress(bytes(1 << 20)) for _ in range(256)) + pack.flush()
    assert len(bomb) < 1 << 20
    done = http.post("/v1/traces", content=bomb, headers={**PROTOBUF, **GZIP})
    assert done.status_code == 413


def test_cut_and_changed_bodies(http: Http, door: Door) -> None:
    """Whatever arrives, the answer is 200 or 400, and the door stands."""
    draw = random.Random(3)
    whole = exported(8).SerializeToString()
    for _ in range(300):
        cut = draw.choice([len(whole), draw.randrange(len(whole))])
        body = bytearray(whole[:cut])
        for _ in range(draw.randrange(4)):
            if body:
                body[draw.randrange(len(body))] = draw.randrange(256)
        done = http.post("/v1/traces", content=bytes(body), headers=PROTOBUF)
        assert done.status_code in {200, 400}
    assert door.counts["accepted"] > 0


@pytest.mark.skipif(FIXTURES is None, reason="needs APPORTION_FIXTURES")
def test_what_a_real_vllm_sent(http: Http, tmp_path: Path) -> None:
    """64 requests of vLLM 0.32.0, with the token counts inside them."""
    folder = Path(str(FIXTURES)) / "engines"
    told: list[dict[str, Any]] = []
    for path in sorted(folder.glob("otlp-*.pb")):
        body = path.read_bytes()
        assert http.post("/v1/traces", content=body, headers=PROTOBUF).status_code == 200
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            told += [
                {pair.key: pair.value for pair in span.attributes}
                for scope in group.scope_spans
                for span in scope.spans
                if span.name == "llm_request"
            ]
    records = only(tmp_path).records
    assert len(records) == len(told) == 64
    names = ("gen_ai.usage.prompt_tokens", "gen_ai.usage.completion_tokens")
    assert [(each["input_tokens"], each["output_tokens"]) for each in records] == [
        tuple(said[name].int_value for name in names) for said in told
    ]


def test_the_command_refuses_what_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong address or service is a sentence, not a traceback; so is a port that is taken."""
    for wrong in (["--http", "127.0.0.1:1x"], ["--http", "127.0.0.1:99999"], ["--devices", "foo"]):
        with pytest.raises(SystemExit) as ended:
            main(["--ring-dir", str(tmp_path), *wrong])
        assert ended.value.code == 2
        assert "say " in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["--ring-dir", str(tmp_path), "--http", address]) == 2
    assert f"cannot listen on {address}: Address already in use" in capsys.readouterr().err


def test_a_span_from_the_future(http: Http, door: Door) -> None:
    """A clock that is far ahead makes no request that the agent cannot believe."""
    message = export()
    span = request(message, 1)
    span.end_time_unix_nano += 3_600 * SECOND
    done = http.post("/v1/traces", content=message.SerializeToString(), headers=PROTOBUF)
    assert accepted(done.content).partial_success.error_message == "it ends in the future: 1"
    assert door.counts == {"malformed": 1, "ignored": 0}
