"""Two agents on one host: one meter, not two."""

from __future__ import annotations

from tests.faults.book import Book, Row
from tests.faults.node import Node


def metered(book: Book) -> list[Row]:
    """(device, first, last) settled by a ledger, on the host's monotonic clock."""
    return book.rows(
        "select device, min(start_ns) - anchor_ns, max(end_ns) - anchor_ns from settlement "
        "join device using (agent_id, device_key) join boot using (agent_id) "
        "group by device order by device"
    )


def test_the_second_agent_meters_only_after_the_first(node: Node) -> None:
    """The second waits while the first lives, and takes over when it dies; no time is twice."""
    first = node.agent("first").until_ready()
    first.eventually(lambda: len(metered(first.book)) == 2, "both devices are metered")
    trainer = node.workload("training", "train", node.root / "log", "0", "1")

    second = node.agent("second").until_ready()
    second.eventually(
        lambda: second.door.value("apportion_device_info", owned="false") == 2,
        "the second sees the devices and owns none",
    )
    assert "another agent on this host holds" in second.door.says()
    ticks = second.door.value("apportion_settlement_ticks_total") or 0
    second.eventually(
        lambda: (second.door.value("apportion_settlement_ticks_total") or 0) > ticks + 3,
        "a few ticks",
    )
    assert second.book.count("settlement") == 0
    assert second.book.count("charge") == second.book.count("accrual") == 0

    first.kill()
    second.eventually(lambda: len(metered(second.book)) == 2, "the second meters both devices")
    assert second.door.value("apportion_device_info", owned="true") == 2
    second.eventually(
        lambda: (second.door.value("apportion_cost_usd_total", category="direct") or 0) > 0,
        "the trainer's cost goes on",
    )
    trainer.kill()
    assert second.stop() == 0, second.log

    for (device, _, ended_ns), (same, began_ns, _) in zip(
        metered(first.book), metered(second.book), strict=True
    ):
        assert device == same
        assert ended_ns <= began_ns
    assert node.audit(first.book) == node.audit(second.book) == []


def test_the_first_agent_comes_back_to_wait(node: Node) -> None:
    """A restarted first agent does not take its devices back from the one that has them."""
    first = node.agent("first").until_ready()
    first.eventually(lambda: len(metered(first.book)) == 2, "both devices are metered")
    second = node.agent("second").until_ready()
    first.kill()
    second.eventually(lambda: len(metered(second.book)) == 2, "the second meters both devices")
    before = metered(first.book)

    first = node.agent("first").until_ready()
    first.eventually(
        lambda: first.door.value("apportion_device_info", owned="false") == 2,
        "the first sees the devices and owns none",
    )
    ticks = first.door.value("apportion_settlement_ticks_total") or 0
    first.eventually(
        lambda: (first.door.value("apportion_settlement_ticks_total") or 0) > ticks + 3,
        "a few ticks",
    )

    assert metered(first.book) == before
    assert first.stop() == second.stop() == 0
    assert first.book.faults() == second.book.faults() == []


def test_two_agents_on_one_ledger_refuse_the_second(node: Node) -> None:
    """Started twice by mistake with one state directory, the book stays whole."""
    first = node.agent("agent").until_ready()
    writer = node.workload("bursts", "serve", "0", 4096)
    writer.say(10)
    first.eventually(lambda: first.book.count("span") == 10, "the first spans")
    second = node.agent("again", state_dir=str(node.root / "state-agent"))
    writer.say(10)

    assert second.process.wait(60) == 2, second.log
    assert "an agent that runs on this host uses" in second.log.splitlines()[-1]
    assert "Traceback" not in second.log
    first.eventually(lambda: first.book.count("span") == 20, "the second spans")
    assert writer.end() == (0, "")
    assert first.stop() == 0, first.log
    assert first.book.names().most_common(1)[0][1] == 1
    assert node.audit(first.book) == []
