"""Requests of SGLang's log, of a server's own ring and of spans: each is paid once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import httpx
from tests.doors.exported import SECOND, export, request
from tests.faults.node import Node

REQUESTS = 20
ADAPTED = 15
"""From this one on they are an adapter's; spans do not say so, and the log comes first."""
SERVER = """
import sys
import time
from apportion import client
client.init(workload="chat")
for number in range(5):
    with client.request(f"r{number}", tenant="search", model="llama") as told:
        told.add(input_tokens=100 + number, output_tokens=7)
sys.stdout.write(f"{time.time()}\\n")
sys.stdout.flush()
sys.stdin.readline()
"""


def line(number: int, now_s: float) -> str:
    """A line as SGLang writes one."""
    asked = {"rid": f"r{number}", "text": "never kept"}
    if number >= ADAPTED:
        asked["lora_path"] = "sql-lora"
    document = {
        "request_parameters": json.dumps(asked),
        "id": f"r{number}",
        "finish_reason": {"type": "stop"},
        "prompt_tokens": 100 + number,
        "completion_tokens": 7,
        "request_received_ts": now_s - 0.5,
        "request_finished_ts": now_s,
    }
    return json.dumps(document) + "\n"


def test_each_request_once_whoever_tells_of_it(node: Node, tmp_path: Path) -> None:
    """A server's ring, its log and its spans at once: the first has the word, tokens count once."""
    device = node.simulator.uuids[0]
    logs = tmp_path / "sglang"
    logs.mkdir()
    agent = node.agent(
        otlp_http="127.0.0.1:0",
        sglang_logs=[f"chat={logs}"],
        service_devices=[f"chat={device}"],
        service_models={"chat": "llama"},
        lateness="2s",
    ).until_ready()
    agent.eventually(
        lambda: "OTLP door: http on" in agent.log and "SGLang door: chat on" in agent.log,
        "both doors are open",
    )
    agent.eventually(lambda: agent.book.count("settlement") > 4, "the device is metered")
    server = node.started([sys.executable, "-c", SERVER], CUDA_VISIBLE_DEVICES=device)
    agent.eventually(lambda: agent.book.count("span") == 5, "the server's own are settled")
    assert server.process.stdout is not None
    now_s = float(server.process.stdout.readline())
    path = logs / "sglang-request-metrics-20261126_10.log"
    path.write_text("".join(line(number, now_s) for number in range(REQUESTS)))
    agent.eventually(lambda: agent.book.count("span") == REQUESTS, "the log's are settled")
    message = export("chat")
    for number in range(1, REQUESTS):
        span = request(message, number, gen_ai__request__id=f"r{number}")
        span.end_time_unix_nano = round(now_s * SECOND)
        span.start_time_unix_nano = span.end_time_unix_nano - SECOND // 2
    address = agent.log.rpartition("http on ")[2].split()[0]
    done = httpx.post(
        f"http://{address}/v1/traces",
        content=message.SerializeToString(),
        headers={"Content-Type": "application/x-protobuf"},
        trust_env=False,
    )
    assert done.status_code == 200
    agent.eventually(lambda: agent.book.count("span") == REQUESTS, "all requests are settled")
    merged = REQUESTS - 1 + 5
    agent.eventually(
        lambda: agent.door.value("apportion_ring_records_total", outcome="merged") == merged,
        "what was told again is counted",
    )
    agent.eventually(agent.book.all_charged, "every one is charged to its end")
    server.end()
    assert agent.stop() == 0, agent.log
    rows = agent.book.rows(
        "select workload, model, request_id, input_tokens, base_model, output_tokens from span "
        "join entity using (agent_id, entity_key) order by input_tokens"
    )
    assert [row[2] for row in rows] == [f"r{number}" for number in range(REQUESTS)]
    models = ["llama"] * ADAPTED + ["sql-lora"] * (REQUESTS - ADAPTED)
    assert [(row[0], row[1]) for row in rows] == [("chat", model) for model in models]
    assert {(row[1], row[4]) for row in rows} == {("llama", None), ("sql-lora", "llama")}
    assert sum(row[3] for row in rows) == sum(100 + number for number in range(REQUESTS))
    assert node.audit(agent.book) == []
