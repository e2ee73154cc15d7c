"""Files in the ring directory that are not what they seem."""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path

from tests.faults.node import Agent, Node, Workload

from apportion.client import layout

SPANS = 40


def ring_name(digit: str) -> str:
    """A name that a ring could have."""
    return f"{digit * 32}{layout.FILE_SUFFIX}"


def renamed(ring: bytes, digit: str) -> bytes:
    """A copy of a ring whose header agrees with `ring_name(digit)`."""
    at = layout.HEADER_OFFSETS["ring_id"]
    return ring[:at] + bytes.fromhex(digit * 32) + ring[at + 16 :]


def refused(agent: Agent, reason: str) -> bool:
    """Whether a file is refused for that reason, by /metrics."""
    return (agent.door.value("apportion_rings_refused", reason=reason) or 0) >= 1


def ring_of(node: Node, workload: Workload) -> Path:
    """The ring file that a process made."""
    for path in sorted(node.rings.glob(f"*{layout.FILE_SUFFIX}")):
        if f"pid={workload.pid} " in describe(path):
            return path
    raise AssertionError(f"process {workload.pid} has no ring in {node.rings}")


def describe(path: Path) -> str:
    """`pid=N ` of a ring's header."""
    with path.open("rb") as file:
        header = file.read(layout.HEADER_BYTES)
    at = layout.HEADER_OFFSETS["pid"]
    return f"pid={int.from_bytes(header[at : at + 8], 'little')} "


def test_bad_files_are_refused_by_name(node: Node) -> None:
    """Corrupt, oversized and hostile files are counted by reason; the good ring is read."""
    agent = node.agent().until_ready()
    writer = node.workload("bursts", "serve", "0", 4096)
    writer.say(SPANS)
    good = ring_of(node, writer).read_bytes()
    secret = node.root / "secret"
    secret.write_bytes(good)

    (node.rings / ring_name("1")).symlink_to(secret)
    os.mkfifo(node.rings / ring_name("2"))
    os.link(secret, node.rings / ring_name("3"))
    (node.rings / ring_name("4")).mkdir()
    (node.rings / ring_name("5")).write_bytes(good)  # another ring's header under a new name
    (node.rings / ring_name("6")).write_bytes(renamed(good, "6") + bytes(1 << 20))
    (node.rings / ring_name("7")).write_bytes(renamed(good, "7")[: layout.RECORDS_OFFSET])
    head = renamed(good, "8")[: layout.RECORDS_OFFSET]
    with (node.rings / ring_name("8")).open("xb") as corrupt:
        fcntl.lockf(corrupt, fcntl.LOCK_EX, 1, layout.LOCK_OFFSET)  # as if its writer lived
        corrupt.write(head + b"\x7f" * (len(good) - len(head)))
        corrupt.flush()
        reasons = ("not_regular", "hard_linked", "bad_header", "wrong_size", "corrupt")
        agent.eventually(
            lambda: [reason for reason in reasons if refused(agent, reason)] == [*reasons],
            "all are refused",
        )
    writer.say(SPANS)
    agent.eventually(
        lambda: agent.book.names().total() == 2 * SPANS, "the good ring's spans and no others"
    )
    assert agent.door.ready()
    assert agent.door.value("apportion_rings_attached") == 1
    assert writer.end() == (0, "")
    assert agent.stop() == 0, agent.log

    assert secret.read_bytes() == good
    assert agent.book.faults() == []


def test_truncated_while_it_is_read(node: Node) -> None:
    """The agent outlives a ring that shrinks under it; what it had read stays in the ledger."""
    agent = node.agent().until_ready()
    victim = node.workload("bursts", "victim", "0", 4096)
    victim.say(SPANS)
    agent.eventually(lambda: agent.book.count("span") == SPANS, "the victim's spans")
    beside = node.workload("bursts", "beside", "1", 4096)
    beside.say(SPANS)
    victim.process.send_signal(signal.SIGSTOP)  # its own mapping must not be touched now

    os.truncate(ring_of(node, victim), layout.RECORDS_OFFSET // 2)

    agent.eventually(lambda: refused(agent, "truncated"), "it is refused")
    beside.say(SPANS)
    # The victim's request that was open ends as lost.
    agent.eventually(lambda: agent.book.count("span") == 3 * SPANS + 1, "the others' spans")
    victim.kill()
    assert beside.end() == (0, "")
    assert agent.stop() == 0, agent.log
    assert agent.book.faults() == []


def test_unreadable_directory(node: Node) -> None:
    """A ring directory without rights degrades the agent; once it has them it reads on."""
    agent = node.agent(override_rights=False).until_ready()
    writer = node.workload("bursts", "serve", "0", 4096)
    writer.say(SPANS)
    agent.eventually(lambda: agent.book.count("span") == SPANS, "the first spans")
    mode = node.rings.stat().st_mode & 0o7777

    node.rings.chmod(0)
    agent.eventually(lambda: "the ring directory" in agent.door.says(), "it is said on /readyz")
    assert str(node.rings) in agent.door.says()
    assert (agent.door.value("apportion_agent_degraded") or 0) > 0
    writer.say(SPANS)
    node.rings.chmod(mode)
    agent.eventually(lambda: "the ring directory" not in agent.door.says(), "it is well again")
    agent.eventually(lambda: agent.book.count("span") == 2 * SPANS, "nothing was lost")
    assert writer.end() == (0, "")
    assert agent.stop() == 0, agent.log
    assert agent.book.faults() == []


def test_directory_unreadable_from_the_start(node: Node) -> None:
    """The agent starts, says what is wrong with the directory, and reads it when it can."""
    node.rings.mkdir()
    writer = node.workload("bursts", "serve", "0", 4096)
    writer.say(SPANS)
    node.rings.chmod(0)
    agent = node.agent(override_rights=False).until_ready()
    agent.eventually(lambda: "the ring directory" in agent.door.says(), "it is said on /readyz")
    node.rings.chmod(0o3770)
    agent.eventually(lambda: agent.book.count("span") == SPANS, "the spans are read")
    assert writer.end() == (0, "")
    assert agent.stop() == 0, agent.log
    assert agent.book.faults() == []
