"""File systems that are full: under the rings, and under the ledger."""

from __future__ import annotations

import errno
from functools import partial
from io import FileIO
from pathlib import Path

from tests.faults.node import Agent, Node, SmallFileSystem

MEBIBYTE = 1 << 20
SPANS = 40


def in_ledger(agent: Agent, spans: int) -> bool:
    """Whether so many spans are in the ledger."""
    return agent.book.count("span") == spans


def fill(directory: Path) -> Path:
    """Take every byte that is left, like a neighbour who logs too much; the file that has them."""
    ballast = directory / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size_bytes in (64 << 10, 1):
            while wrote(file, bytes(size_bytes)):
                pass
    return ballast


def wrote(file: FileIO, data: bytes) -> bool:
    """Whether there was still room."""
    try:
        return file.write(data) > 0
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False


def test_full_before_the_ring_is_made(node: Node, small_file_system: SmallFileSystem) -> None:
    """No room for a ring: the workload does not notice, and the agent goes on."""
    small_file_system(node.rings, MEBIBYTE)
    agent = node.agent().until_ready()

    assert node.workload("quiet").end() == (0, "")

    assert agent.door.ready()
    assert [path.name for path in node.rings.iterdir()] == ["agent.json"]
    assert agent.stop() == 0, agent.log
    assert agent.book.count("span") == 0
    assert agent.book.faults() == []


def test_full_after_the_ring_is_made(node: Node, small_file_system: SmallFileSystem) -> None:
    """A ring's pages are its own: spans flow on, and the agent says that it cannot write there."""
    small_file_system(node.rings, 4 * MEBIBYTE)
    agent = node.agent().until_ready()
    writer = node.workload("bursts", "serve", "0", 4096)
    writer.say(SPANS)

    ballast = fill(node.rings)
    # Round the ring: each of its pages is written after the file system was full.
    for burst in range(1, 9):
        writer.say(1000)
        written = SPANS + burst * 1000
        agent.eventually(partial(in_ledger, agent, written), "the burst is in the ledger")
    agent.eventually(lambda: "agent.json" in agent.door.says(), "the heartbeat is missed")
    assert node.workload("quiet").end() == (0, "")
    ballast.unlink()
    agent.eventually(lambda: "agent.json" not in agent.door.says(), "the heartbeat is back")
    assert writer.end() == (0, "")
    agent.eventually(lambda: agent.book.count("span") == SPANS + 8000 + 1, "every span is there")
    assert agent.stop() == 0, agent.log
    assert agent.book.faults() == []


def test_full_ledger_disk(node: Node, small_file_system: SmallFileSystem) -> None:
    """Nothing is lost while the ledger cannot grow: ticks wait, and are committed later."""
    disk = small_file_system(node.root / "state-agent", 3 * MEBIBYTE)
    agent = node.agent().until_ready()
    writer = node.workload("bursts", "serve", "0", 32_768)
    writer.say(SPANS)
    agent.eventually(lambda: agent.book.count("span") == SPANS, "the first spans")

    ballast = fill(disk)
    writer.say(5_000)
    agent.eventually(lambda: agent.door.value("apportion_ledger_up") == 0, "the ledger is down")
    assert "free space on its disk" in agent.door.says()
    assert agent.door.ready()
    assert agent.book.count("span") >= SPANS
    ballast.unlink()
    agent.eventually(lambda: agent.door.value("apportion_ledger_up") == 1, "the ledger is back")
    agent.eventually(lambda: agent.book.count("span") == SPANS + 5_000, "nothing was lost")
    assert writer.end() == (0, "")
    assert agent.stop() == 0, agent.log
    assert node.audit(agent.book) == []
    assert agent.book.direct_faults() == []


def test_ledger_disk_full_at_the_start(node: Node, small_file_system: SmallFileSystem) -> None:
    """An agent that cannot create its ledger refuses in one line."""
    fill(small_file_system(node.root / "state-agent", 64 << 10))
    agent = node.agent()

    assert agent.process.wait(60) == 2
    assert agent.log.splitlines()[-1].startswith("apportion: ledger ")
    assert "free space on its disk" in agent.log
    assert "Traceback" not in agent.log
