"""No price table: a newcomer sees money at once, and is told what it is worth."""

from __future__ import annotations

import json

from tests.faults.node import Node


def test_money_at_once_and_marked_as_an_estimate(node: Node) -> None:
    """From the built-in table through the ledger to each form of the report: source and age."""
    agent = node.agent(prices=None).until_ready()
    agent.eventually(lambda: agent.book.count("settlement") > 0, "a first settlement")
    assert "prices: the built-in estimates" in agent.log
    agent.process.terminate()
    assert agent.process.wait(60) == 0, agent.log

    ledger = ("--ledger", agent.book.path)
    text = node.ask("report", *ledger).stdout
    assert "USD*" in text
    assert "estimated: rests on assumed prices of NVIDIA H100 80GB HBM3" in text
    assert "list-estimate, as of 2026-01-01, from Nebius on demand" in " ".join(text.split())
    found = json.loads(node.ask("report", *ledger, "--format", "json").stdout)
    assert found["estimated"] is True
    assert found["proof"]["metered"]["units"] > 0
    assert any("is an estimate (source: Nebius" in warning for warning in found["warnings"])
    assert any("days old (as of 2026-01-01)" in warning for warning in found["warnings"])
    header, *rows = node.ask("report", *ledger, "--format", "csv").stdout.splitlines()
    column = header.split(",").index("price_bases")
    assert {row.split(",")[column] for row in rows} == {"list-estimate"}
    assert node.audit(agent.book) == []


def test_none_is_no_money(node: Node) -> None:
    """Whoever does not want estimates has quantities alone."""
    agent = node.agent(prices="none").until_ready()
    agent.eventually(lambda: agent.book.count("settlement") > 0, "a first settlement")
    agent.process.terminate()
    assert agent.process.wait(60) == 0, agent.log
    ledger = ("--ledger", agent.book.path, "--format", "json")
    found = json.loads(node.ask("report", *ledger).stdout)
    assert (found["estimated"], found["currency"]) == (False, None)
    assert found["proof"]["metered"]["units"] is None
    assert found["proof"]["metered"]["device_ns"] > 0
