"""SGLang's request log. Its lines here are made after its sources: none of a real one was read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.client.decoded import labels, only, request_id
from tests.doors.test_forward_passes import BATCH, Rank, message

from apportion.client import layout
from apportion.client.id_hashing import HashedIds
from apportion.core.clock import SystemClock
from apportion.doors import sglang
from apportion.doors.sglang import SglangLogs
from apportion.doors.sglang_line import told_request
from apportion.doors.span_rings import SpanRings
from apportion.doors.told_request import Malformed, ToldRequest

SECRET = "the prompt that nobody may keep"
NOW_S = SystemClock().realtime_ns() / 1e9
TRACE = "0af7651916cd43dd8448eb211c80319c"


def line(number: int = 1, *, asked: Any = None, **said: Any) -> bytes:
    """A line of a request that ended just now, as SGLang 0.5 writes one at its most talkative."""
    parameters: dict[str, Any] = {
        "rid": f"r{number}",
        "text": SECRET,
        "sampling_params": {"max_new_tokens": 7},
        "custom_labels": {"tenant": "search"},
        "lora_path": "adapter-a",
        "external_trace_header": {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"},
    }
    document: dict[str, Any] = {
        "request_parameters": json.dumps(parameters if asked is None else asked),
        "id": f"r{number}",
        "finish_reason": {"type": "length", "length": 7},
        "prompt_tokens": 100 + number,
        "completion_tokens": 7,
        "cached_tokens": 64,
        "num_retractions": 1,
        "output_token_logprobs": [[-0.1, 5, SECRET]],
        "e2e_latency": 2.0,
        "request_received_ts": NOW_S - 2,
        "request_finished_ts": NOW_S,
        "forward_entry_time": NOW_S - 1.5,
        "prefill_finished_time": NOW_S - 1,
    }
    changed = {**document, **said}
    kept = {key: value for key, value in changed.items() if value is not None}
    return json.dumps(kept).encode() + b"\n"


@pytest.fixture(autouse=True)
def just_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite runs for longer than what the door takes for news."""
    monkeypatch.setattr(sys.modules[__name__], "NOW_S", SystemClock().realtime_ns() / 1e9)


def one(**said: Any) -> ToldRequest:
    found = told_request(line(**said), "chat", "tenant")
    assert isinstance(found, ToldRequest), found
    return found


def test_what_a_line_says() -> None:
    """Times are seconds since 1970; a traceparent that was passed on gives the trace."""
    found = one()
    assert found == ToldRequest(
        "chat",
        "r1",
        round((NOW_S - 2) * 1_000_000_000),
        round(NOW_S * 1_000_000_000),
        bytes.fromhex(TRACE),
        bytes.fromhex("b7ad6b7169203331"),
        tenant="search",
        adapter="adapter-a",
        scheduled_ns=round((NOW_S - 1.5) * 1_000_000_000),
        first_token_ns=round((NOW_S - 1) * 1_000_000_000),
        input_tokens=101,
        cached_input_tokens=64,
        output_tokens=7,
        preemptions=1,
    )
    without = told_request(line(), "chat")
    assert isinstance(without, ToldRequest)
    assert without.tenant is None


@pytest.mark.parametrize(
    ("reason", "tokens", "status", "waited"),
    [
        ({"type": "stop", "matched": 2}, 3, "ok", False),
        ({"type": "abort", "message": "Abort in waiting queue"}, 0, "cancelled", True),
        ({"type": "abort", "message": "Aborted"}, 3, "cancelled", False),
        ({"type": "abort", "status_code": 400, "err_type": "BadRequestError"}, 0, "error", True),
        ("stop", 3, "ok", False),
        (5, 3, "ok", False),
    ],
)
def test_how_it_ended(reason: Any, tokens: int, status: str, waited: bool) -> None:
    """One that was given up before it was admitted has only waited, and pays nothing."""
    found = one(finish_reason=reason, completion_tokens=tokens, forward_entry_time=None)
    assert found.status == status
    assert (found.scheduled_ns == found.end_ns) == waited


def test_without_metrics_and_of_older_versions() -> None:
    """What is not said is unknown; a time outside of the request is moved into it."""
    found = one(
        forward_entry_time=None,
        prefill_finished_time=None,
        prefill_finished_ts=NOW_S + 5,
        num_retractions=None,
        total_retractions=2,
        completion_tokens=None,
        cached_tokens=-1,
        asked="no object",
    )
    assert (found.scheduled_ns, found.first_token_ns) == (None, found.end_ns)
    assert (found.preemptions, found.output_tokens, found.cached_input_tokens) == (2, None, None)
    assert (found.tenant, found.adapter, any(found.trace)) == (None, None, False)


@pytest.mark.parametrize(
    ("said", "engine"), [(0, 0), (3, 3), (None, None), (-1, None), (True, None), (1 << 32, None)]
)
def test_which_rank_served_it(logs: Path, said: Any, engine: int | None) -> None:
    """As the index of an engine in the ring, with the flag that it is one; 0 is a rank too."""
    write(logs, line(dp_rank=said))
    rings, read = opened(logs)
    read.look()
    rings.close()
    (record,) = only(logs.parent / "rings").records
    flagged = bool(record["flags"] & layout.FLAG_ENGINE)
    assert (record["engine"], flagged) == (engine or 0, engine is not None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{\n", "no JSON object"),
        (b"[]\n", "no JSON object"),
        (b"[" * 100_000, "no JSON object"),
        (b"\xff\n", "no JSON object"),
        (line(id=None), "no id"),
        (line(id=5), "no id"),
        (line(request_finished_ts=None), "no request_received_ts or request_finished_ts"),
        (line(request_finished_ts=float("nan")), "no request_received_ts or request_finished_ts"),
        (line(request_received_ts=NOW_S + 1), "times cannot be"),
    ],
)
def test_lines_that_cannot_be(text: bytes, reason: str) -> None:
    """Each has a reason, in which nothing of the line is."""
    found = told_request(text, "chat")
    assert isinstance(found, Malformed)
    assert reason in found.reason
    assert SECRET not in found.reason


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    path = tmp_path / "logs"
    path.mkdir()
    (tmp_path / "rings").mkdir()
    return path


def opened(logs: Path, **options: Any) -> tuple[SpanRings, SglangLogs]:
    rings = SpanRings(logs.parent / "rings", {"chat": ["GPU-1"]}, {"chat": "llama"})
    state = logs.parent / "state.json"
    return rings, SglangLogs(rings, [("chat", logs)], tenant_label="tenant", state=state, **options)


def write(logs: Path, *texts: bytes, hour: int = 10) -> None:
    with (logs / f"sglang-request-metrics-20261126_{hour}.log").open("ab") as file:
        file.writelines(texts)


def test_from_the_log_to_the_ring(logs: Path) -> None:
    """Tokens, tenant, adapter and the service's model; of prompts and outputs nothing, anywhere."""
    write(logs, line(1), b"{broken\n", line(2, request_finished_ts=NOW_S + 86_400))
    rings, read = opened(logs)
    read.look()
    write(logs, line(3), hour=11)
    read.look()
    assert read.counts == {"accepted": 2, "malformed": 2}
    found = only(logs.parent / "rings")
    assert (found.identity["kind"], found.identity["devices"]) == (layout.DOOR, ["GPU-1"])
    assert [request_id(each["request_id"])[0] for each in found.records] == ["r1", "r3"]
    first = found.records[0]
    assert labels(found, first) == ["search", "llama", "adapter-a"]
    assert (first["input_tokens"], first["preemptions"], first["tokens"]) == (101, 1, -1)
    assert first["trace_id"].hex() == TRACE
    rings.close()
    kept = [path for path in logs.parent.rglob("*") if path.is_file() and path.parent != logs]
    assert 2 == len(kept)
    assert not [path for path in kept if SECRET.encode() in path.read_bytes()]


def test_another_process_goes_on(logs: Path) -> None:
    """Nothing twice and nothing left out, however long it was gone; history is no news at first."""
    hour_ago = {"request_received_ts": NOW_S - 3602, "request_finished_ts": NOW_S - 3600}
    write(logs, line(1, **hour_ago), line(2))
    rings, read = opened(logs)
    read.look()
    assert read.counts == {"old": 1, "accepted": 1, "malformed": 0}
    rings.close()
    write(logs, line(3, **hour_ago))
    rings, read = opened(logs)
    read.look()
    rings.close()
    assert read.counts == {"accepted": 1, "malformed": 0}
    (logs.parent / "state.json").write_text("[nonsense")
    rings, read = opened(logs)
    read.look()
    rings.close()
    assert read.counts == {"old": 2, "accepted": 1, "malformed": 0}


def test_a_directory_that_is_not_there_yet(logs: Path) -> None:
    """SGLang makes it when it starts; until then it is said, and nothing breaks."""
    logs.rmdir()
    rings, read = opened(logs)
    read.look()
    assert "No such file" in read.problems["chat"]
    logs.mkdir()
    write(logs, line())
    read.look()
    rings.close()
    assert (read.problems, read.counts["accepted"]) == ({}, 1)


def test_hashed_ids_are_hashed_here_too(logs: Path, tmp_path: Path) -> None:
    """A door stores the same hash as a client with the same key."""
    key = tmp_path / "key"
    key.write_text("k" * 32)
    ids = HashedIds()
    ids.configure({"APPORTION_ID_KEY_FILE": str(key)})
    write(logs, line())
    rings = SpanRings(tmp_path / "rings", {}, {"chat": "llama"}, ids)
    SglangLogs(rings, [("chat", logs)], tenant_label="tenant").look()
    rings.close()
    found = only(tmp_path / "rings")
    text, _ = request_id(found.records[0]["request_id"])
    tenant, model, _ = labels(found, found.records[0])
    assert (text[:5], (tenant or "")[:5], model) == ("hash:", "hash:", "llama")
    (ring,) = (tmp_path / "rings").iterdir()
    assert b"search" not in ring.read_bytes()


def test_the_command(logs: Path) -> None:
    """It says that it reads, says counts, and ends with its input; its rings say so too."""
    write(logs, line())
    command = [sys.executable, "-m", "apportion.doors", "sglang", "--counts", "--ring-dir"]
    command += [str(logs.parent / "rings"), "--log", f"chat={logs}"]
    command += ["--forward-passes", f"chat=ipc://{logs.parent}/fpm"]
    names = ("accepted", "heard")
    with (
        closing(Rank(logs.parent / "fpm", 0)) as rank,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ}
        ) as door,
    ):
        assert door.stdout is not None
        assert door.stdin is not None
        assert json.loads(door.stdout.readline()) == {"listening": {"chat": str(logs)}}
        deadline = time.monotonic() + 60
        assert rank.socket.recv() == b"\x01"  # it has subscribed
        rank.socket.send_multipart(message(7, BATCH))
        while [json.loads(door.stdout.readline())["counts"].get(n) for n in names] != [1, 1]:
            assert time.monotonic() < deadline
        door.send_signal(signal.SIGTERM)
        assert door.wait(60) == 0
    found = only(logs.parent / "rings")
    assert found.header["closed_ns"] > 0
    kinds = [layout.KINDS["iteration"], layout.KINDS["request"]]
    assert sorted(record["kind"] for record in found.records) == sorted(kinds)


def test_the_command_refuses_what_cannot_be(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a sentence: without a directory for rings, or with a key that is none."""
    monkeypatch.delenv("APPORTION_ID_KEY_FILE", raising=False)
    here = ["--log", f"chat={logs}", "--ring-dir"]
    assert sglang.main([*here, str(logs / "missing")]) == 2
    assert "start the agent first" in capsys.readouterr().err
    assert sglang.main([*here, str(logs), "--id-key-file", str(logs / "missing")]) == 2
    assert "No such file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        sglang.main(["--log", "chat"])
    assert "say SERVICE=VALUE" in capsys.readouterr().err
