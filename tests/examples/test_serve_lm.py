"""The example server: the protocol it speaks, and the requests that its ring tells of."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytestmark = [pytest.mark.needs_module("torch"), pytest.mark.timeout(240)]
PROMPT = "The meter counts 34 joules in the morning."


def _events(lines: list[str]) -> list[Any]:
    """The JSON of each server-sent event, after checking the frame around them."""
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_a_stream_is_valid_and_its_usage_is_what_was_streamed(
    server: Any, read_ring: Callable[[], Any]
) -> None:
    """A client can read the stream, and its usage, its text and the ring tell the same counts."""
    body = {
        "model": "gpt-small",
        "prompt": PROMPT,
        "max_tokens": 9,
        "seed": 5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = {"X-Tenant": "search", "X-Request-Id": "question-1"}
    with server.http.stream("POST", "/v1/completions", json=body, headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = _events([line for line in response.iter_lines() if line])
    *pieces, last = events
    text = "".join(piece["choices"][0]["text"] for piece in pieces)
    assert [piece["choices"][0]["finish_reason"] for piece in pieces] == [None] * 8 + ["length"]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == len(text) == 9
    assert last["usage"]["prompt_tokens"] == len(PROMPT)
    assert {event["id"] for event in events} == {"question-1"}

    whole = server.complete(PROMPT, max_tokens=9, seed=5)
    assert len(whole["choices"][0]["text"]) == 9

    assert server.stop() == 0
    ring = read_ring()
    assert ring.identity["workload"] == "lm-server"
    assert ring.ready_ns > 0
    assert ring.closed_ns > 0
    streamed, other = ring.of("request")
    assert (streamed.request_id, streamed.tenant) == ("question-1", "search")
    assert (streamed.status, other.status) == ("ok", "ok")
    assert streamed.values["input_tokens"] == len(PROMPT)
    assert streamed.values["output_tokens"] == 9
    times = [streamed.values[f"{name}_ns"] for name in ("start", "scheduled", "first_token", "end")]
    assert times == sorted(times)
    assert times[0] > 0


def test_guardrails_are_phases_and_an_answer_can_only_be_json(
    server: Any, read_ring: Callable[[], Any]
) -> None:
    """What is checked and constrained is a part of the request's cost; the log has no text."""
    whole = server.complete(
        PROMPT,
        max_tokens=40,
        response_format={"type": "json_object"},
        headers={"X-Request-Id": "as-json", "X-Tenant": "search"},
    )
    (choice,) = whole["choices"]
    assert isinstance(json.loads(choice["text"]), dict)
    assert choice["finish_reason"] in {"stop", "length"}
    assert len(server.complete(PROMPT, max_tokens=3)["choices"][0]["text"]) == 3
    assert server.stop() == 0
    ring = read_ring()
    numbers = [each.values["number"] for each in ring.of("request")]
    phases = {
        number: Counter(
            phase.phase for phase in ring.of("phase") if phase.values["parent"] == number
        )
        for number in numbers
    }
    once = {"guard_input": 1, "guard_output": 1}
    tokens = whole["usage"]["completion_tokens"]
    assert [phases[number] for number in numbers] == [{**once, "constrain": tokens}, once]
    lines = server.decisions.read_text().splitlines()
    said = [json.loads(line) for line in lines]
    assert [each["stage"] for each in said] == ["guard_input", "guard_output"] * 2
    assert {each["decision"] for each in said} == {"pass"}
    assert (said[0]["request_id"], said[0]["tenant"]) == ("as-json", "search")
    assert not any(PROMPT in line or choice["text"] in line for line in lines)


def test_a_shared_beginning_is_computed_once(server: Any, read_ring: Callable[[], Any]) -> None:
    """Reused keys and values are reported as cached tokens, in whole blocks, and in the ring."""
    usages = [
        server.complete(prompt, max_tokens=1)["usage"]
        for prompt in (PROMPT, PROMPT, PROMPT[:20] + "!")
    ]
    cached = [usage["prompt_tokens_details"]["cached_tokens"] for usage in usages]
    assert cached == [0, 32, 16]
    assert server.stop() == 0
    requests = read_ring().of("request")
    assert [request.values["cached_input_tokens"] for request in requests] == [0, 32, 16]


def test_more_requests_than_rows_all_end(server: Any, read_ring: Callable[[], Any]) -> None:
    """Continuous batching: requests beyond the rows wait their turn, and each gets its tokens."""

    def ask(number: int) -> int:
        body = server.complete(f"question {number}", max_tokens=10 + number)
        return int(body["usage"]["completion_tokens"])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == [10 + number for number in range(8)]
    assert server.stop() == 0
    requests = read_ring().of("request")
    assert {request.status for request in requests} == {"ok"}
    events = [(r.values["scheduled_ns"], 1) for r in requests]
    events += [(r.values["end_ns"], -1) for r in requests]
    at_once = [sum(change for _, change in sorted(events)[: n + 1]) for n in range(len(events))]
    assert max(at_once) == 2


def test_a_client_that_hangs_up_cancels_its_request(
    server: Any,
    read_ring: Callable[[], Any],
    eventually: Callable[[Callable[[], bool]], None],
) -> None:
    """Nobody pays for tokens that nobody waits for: a closed connection ends the computation."""
    body = {"model": "gpt-small", "prompt": "Hm", "max_tokens": 250, "stream": True}
    with server.http.stream("POST", "/v1/completions", json=body) as response:
        next(response.iter_lines())
    eventually(lambda: bool(read_ring().of("request")))
    (request,) = read_ring().of("request")
    assert request.status == "cancelled"
    assert 1 <= request.values["output_tokens"] < 250
    assert server.complete("Still there?", max_tokens=2)["usage"]["completion_tokens"] == 2


def test_it_says_what_it_serves_and_why_not(server: Any) -> None:
    """A client library finds the model, a probe a live server, and an error says what is wrong."""
    assert server.http.get("/v1/models").json()["data"][0]["id"] == "gpt-small"
    assert server.http.get("/healthz").json() == {"status": "ok"}
    cases: list[tuple[dict[str, Any], dict[str, str], int, str]] = [
        ({"model": "other"}, {}, 404, "no model 'other'"),
        ({"prompt": "x" * 250, "max_tokens": 10}, {}, 400, "shorten one of them"),
        ({"max_tokens": 0}, {}, 400, "max_tokens"),
        ({"prompt": ""}, {}, 400, "prompt"),
        ({}, {"X-Tenant": "a b"}, 400, "x-tenant"),
    ]
    for change, headers, status, message in cases:
        body = {"model": "gpt-small", "prompt": "Hm", **change}
        response = server.http.post("/v1/completions", json=body, headers=headers)
        assert response.status_code == status
        assert message in response.json()["error"]["message"]


def test_sigterm_ends_it_with_requests_under_way(server: Any, read_ring: Callable[[], Any]) -> None:
    """SIGTERM ends the server in order: status 0, and no span is left open for the agent."""
    body = {"model": "gpt-small", "prompt": "Hm", "max_tokens": 250, "stream": True}
    with server.http.stream("POST", "/v1/completions", json=body) as response:
        next(response.iter_lines())
        assert server.stop() == 0
    ring = read_ring()
    (request,) = ring.of("request")
    assert request.status in {"ok", "cancelled"}
    assert ring.closed_ns > 0
