"""The load generator: its summary is what the server's ring says too."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.needs_module("torch"), pytest.mark.timeout(240)]


def test_its_summary_equals_the_ring(
    server: Any, run_example: Callable[..., str], read_ring: Callable[[], Any]
) -> None:
    """The tokens that answers reported, by tenant, are those that the ledger will be given."""
    url = str(server.http.base_url)
    options = ("--url", url, "--seconds", 20, "--requests", 30, "--cancel-ratio", 0)
    summary = json.loads(run_example("load.py", *options, "--rate", 8))
    assert summary["finished"]
    assert server.stop() == 0
    requests = read_ring().of("request")
    assert len(requests) == 30
    for tenant in ("search", "chat"):
        said = summary["tenants"][tenant]
        its = [request for request in requests if request.tenant == tenant]
        assert said["requests"] == dict(Counter(request.status for request in its))
        for ours, theirs in (
            ("prompt_tokens", "input_tokens"),
            ("cached_tokens", "cached_input_tokens"),
            ("completion_tokens", "output_tokens"),
        ):
            assert said[ours] == sum(request.values[theirs] for request in its)
    assert summary["tenants"]["search"]["cached_tokens"] > 0


def test_it_hangs_up_as_often_as_told(
    server: Any, run_example: Callable[..., str], read_ring: Callable[[], Any]
) -> None:
    """Chats that are cut short appear as such on both sides, and all others are complete."""
    url = str(server.http.base_url)
    options = ("--url", url, "--seconds", 20, "--requests", 12, "--cancel-ratio", 1)
    summary = json.loads(run_example("load.py", *options, "--rate", 0))
    chat, search = summary["tenants"]["chat"]["requests"], summary["tenants"]["search"]["requests"]
    assert set(chat) == {"cancelled"}
    assert set(search) == {"ok"}
    assert server.stop() == 0
    statuses = {(request.tenant, request.status) for request in read_ring().of("request")}
    assert ("chat", "cancelled") in statuses
    assert ("search", "ok") in statuses
    assert not {status for _, status in statuses} - {"ok", "cancelled"}


def test_a_server_that_is_away_is_counted_not_fatal(run_example: Callable[..., str]) -> None:
    """Requests that fail are errors in the summary: the load still ends, and says so."""
    options = ("--url", "http://127.0.0.1:9", "--seconds", 5, "--requests", 4, "--rate", 0)
    summary = json.loads(run_example("load.py", *options))
    failed = [tally["requests"].get("error", 0) for tally in summary["tenants"].values()]
    assert sum(failed) == 4
