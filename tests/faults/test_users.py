"""Agent and workload as different users of one group, in pid namespaces of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.faults.book import Book
from tests.faults.door import Door
from tests.faults.node import PATIENCE_S, PROGRAMS, Agent, Node

from apportion.client import layout

AGENT, WORKLOAD, STRANGER, GROUP = 4001, 4002, 4003, 4000
SPANS = 300


def as_user(user: int, group: int, *command: str, namespace: bool = False) -> list[str]:
    """The command as this user, in the group beside its own; in a pid namespace of its own."""
    user_is = ["setpriv", f"--reuid={user}", f"--regid={user}", f"--groups={group}"]
    apart = ["unshare", "--pid", "--fork", "--kill-child"] if namespace else []
    return [*apart, *user_is, "--no-new-privs", "--bounding-set=-all", *command]


@pytest.fixture
def host(node: Node) -> Iterator[Node]:
    """The node, with a root that other users reach, and a directory of its own for each."""
    if os.geteuid() != 0:
        pytest.skip("to become other users needs root")
    probe = as_user(AGENT, GROUP, sys.executable, "-c", "import apportion.agent", namespace=True)
    if subprocess.run(probe, capture_output=True, check=False, timeout=60).returncode:
        pytest.skip("another user cannot run this Python, or there are no pid namespaces here")
    root = Path(tempfile.mkdtemp(prefix="apportion-users-"))
    root.chmod(0o755)  # pytest's own are its user's alone
    for name, user in (("agent", AGENT), ("workload", WORKLOAD)):
        (root / name).mkdir(mode=0o755)
        os.chown(root / name, user, user)
    host = Node(root, node.simulator, node.library)
    host.prices.chmod(0o644)
    host.rings = root / "agent" / "rings"
    try:
        yield host
    finally:
        host.close()
        shutil.rmtree(root)


def agent_of(host: Node) -> Agent:
    """The daemon as its own user, which makes the rings' directory for the group."""
    state = host.root / "agent" / "state"
    config = host.config(
        devices="cpu", state_dir=str(state), ring_dir=str(host.rings), ring_gid=GROUP,
        lock_dir=str(host.root / "agent" / "locks"),
    )  # fmt: skip
    config.chmod(0o644)
    log = host.root / "agent.log"
    with log.open("xb") as stream:
        process = subprocess.Popen(
            as_user(AGENT, GROUP, *host.command("agent", "--config", config), namespace=True),
            env=host.environment({}),
            stdout=stream,
            stderr=stream,
        )
    return Agent(process, Door(log), log, Book(state / "ledger.db"))


def kill(unshare: int) -> None:
    """kill -9 of what runs in a namespace of its own: `unshare` only waits for it."""
    children = Path(f"/proc/{unshare}/task/{unshare}/children")
    for child in children.read_text().split():
        os.kill(int(child), signal.SIGKILL)


def can_read(user: int, group: int, path: Path) -> bool:
    """Whether a user of the group may."""
    command: Sequence[str] = as_user(user, group, "cat", str(path))
    return not subprocess.run(command, capture_output=True, check=False).returncode


def attached(agent: Agent) -> float | None:
    """How many rings' processes it takes to be alive."""
    return agent.door.value("apportion_rings_attached")


@pytest.mark.needs_program("setpriv", "unshare")
def test_two_users_of_one_group(host: Node) -> None:
    """Rings are read, who lives is known, and neither reads what is the other's alone."""
    agent = agent_of(host)
    try:
        agent.until_ready()
        assert host.rings.stat().st_mode & 0o7777 == 0o3770
        assert host.rings.stat().st_gid == GROUP
        program = [sys.executable, str(PROGRAMS / "traffic.py")]
        work = ["requests", "chat-api", str(SPANS), "200", str(host.root / "workload" / "log")]
        first = host.started(as_user(WORKLOAD, GROUP, *program, *work, namespace=True))
        agent.eventually(lambda: agent.book.count("span") > 0, "it is read while it runs")
        assert first.end() == (0, "")
        agent.eventually(lambda: agent.book.count("span") == SPANS, "all of it has arrived")

        rank = [sys.executable, str(PROGRAMS / "rank.py"), "rank", "train"]
        second = host.started(as_user(WORKLOAD, GROUP, *rank, namespace=True))
        agent.eventually(lambda: agent.book.count("span") > SPANS, "steps of another one")
        assert attached(agent) == 1, "one has ended, one lives"
        (ring,) = (
            path
            for path in host.rings.glob(f"*{layout.FILE_SUFFIX}")
            if path.stat().st_uid == WORKLOAD
        )
        secret = host.root / "workload" / "secret"
        secret.touch(mode=0o600)
        os.chown(secret, WORKLOAD, WORKLOAD)
        assert can_read(AGENT, GROUP, ring)
        assert can_read(WORKLOAD, GROUP, host.rings / layout.AGENT_FILE)
        assert not can_read(AGENT, GROUP, secret)
        assert not can_read(WORKLOAD, GROUP, agent.book.path)
        assert not can_read(STRANGER, STRANGER, ring)
        assert not can_read(STRANGER, STRANGER, host.rings / layout.AGENT_FILE)

        kill(second.pid)
        agent.eventually(lambda: attached(agent) == 0, "its death is seen")
        ended = agent.book.rows("select closed, ended_ns is not null from ring_position")
        assert sorted(ended) == [(0, 1), (1, 1)]
    finally:
        kill(agent.process.pid)
        agent.process.wait(PATIENCE_S)
