"""Requests that come as OpenTelemetry spans, from the socket to the ledger."""

from __future__ import annotations

import httpx
from tests.doors.exported import exported
from tests.faults.node import Node

SPANS = 40


def test_requests_of_a_server_without_a_client(node: Node) -> None:
    """Each is in the ledger once with its tokens, paid by the device that its service runs on."""
    device = node.simulator.uuids[0]
    agent = node.agent(
        otlp_http="127.0.0.1:0", service_devices=[f"tiny={device}"], lateness="2s"
    ).until_ready()
    agent.eventually(lambda: "OTLP door: http on" in agent.log, "the door listens")
    address = agent.log.rpartition("http on ")[2].split()[0]
    agent.eventually(lambda: agent.book.count("settlement") > 4, "the device is metered")
    body = exported(SPANS).SerializeToString()
    for _ in range(2):  # as an exporter that saw no answer
        done = httpx.post(
            f"http://{address}/v1/traces",
            content=body,
            headers={"Content-Type": "application/x-protobuf"},
            trust_env=False,
        )
        assert (done.status_code, done.content) == (200, b"")
    agent.eventually(lambda: agent.book.count("span") == SPANS, "all requests are settled")
    agent.eventually(agent.book.all_charged, "every one is charged to its end")
    agent.eventually(
        lambda: agent.door.value("apportion_otlp_spans_total", outcome="repeated") == SPANS,
        "what was repeated is counted",
    )
    assert agent.stop() == 0, agent.log
    rows = agent.book.rows(
        "select workload, request_id, input_tokens, output_tokens from span "
        "join entity using (agent_id, entity_key) order by input_tokens"
    )
    assert rows == [
        ("tiny", f"cmpl-{number}-0", 100 + number, number) for number in range(1, SPANS + 1)
    ]
    assert node.audit(agent.book) == []
    assert agent.book.direct_faults() == []
