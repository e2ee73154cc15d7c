"""Devices without a client: busy, idle, and with their telemetry cut."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress

import pytest
from tests.faults.gpus import Gpus
from tests.faults.node import Agent, Node

from apportion.core.category import Category
from apportion.core.units import NS_PER_SECOND
from apportion.simulator import PROFILES

SETTLED_NS = 3 * NS_PER_SECOND
PERIOD, GAP, LATENESS = "100ms", "1s", "500ms"
"""A device is soon unattributed, and its source soon tried again; 1 s is ten readings."""


def settled(agent: Agent) -> dict[Category, int]:
    """Settled device time by category, once there are a few seconds of it."""

    def look() -> dict[Category, int]:
        found = agent.book.device_ns()
        return found if sum(found.values()) > SETTLED_NS else {}

    return agent.eventually(look, "a few seconds are settled")


def test_devices_without_a_client(node: Node) -> None:
    """At 90 % all of a device's time is uninstrumented and none idle; at 0 % all of it is idle."""
    node.simulator.set_utilization(0, 0.9)
    node.simulator.set_utilization(1, 0.0)
    gpus = Gpus(node, node.agent().until_ready())

    gpus.agent.eventually(
        lambda: all(gpus.known_ns(index) > SETTLED_NS for index in (0, 1)),
        "a few seconds of both are settled",
    )
    assert gpus.agent.stop() == 0, gpus.agent.log

    assert set(gpus.spent_ns(gpus.ids[0])) == {Category.UNINSTRUMENTED}
    assert set(gpus.spent_ns(gpus.ids[1])) == {Category.UNALLOCATED}
    assert gpus.agent.book.faults() == []


def kill(pid: int) -> None:
    """The child dies at once."""
    os.kill(pid, signal.SIGKILL)


def stop(pid: int) -> None:
    """The child hangs, as in a stuck driver call: the agent must give it up."""
    os.kill(pid, signal.SIGSTOP)


@pytest.mark.slow
@pytest.mark.parametrize("node", [1], indirect=True)
@pytest.mark.parametrize("cut", [kill, stop])
def test_telemetry_is_cut(node: Node, cut: Callable[[int], None]) -> None:
    """Without readings time is unattributed, never idle; the agent lives, and recovers."""
    node.simulator.set_utilization(0, 0.0)
    agent = node.agent(sample_period=PERIOD, telemetry_gap=GAP, lateness=LATENESS).until_ready()
    settled(agent)
    assert agent.children()

    def is_read() -> bool:
        return agent.door.value("apportion_collector_success", collector="nvml") == 1

    def is_cut() -> bool:
        cut_all()  # again and again: another child is soon there
        return not is_read() and "collector nvml" in agent.door.says()

    def cut_all() -> None:
        for pid in agent.children():
            with suppress(ProcessLookupError):
                cut(pid)

    agent.eventually(is_cut, "it says what is the matter")
    agent.eventually(
        lambda: (
            (cut is stop or is_cut())  # a child that hangs is given up slowly enough
            and agent.book.device_ns().get(Category.UNATTRIBUTED, 0) > NS_PER_SECOND
        ),
        "time is unattributed",
    )
    idle_ns = agent.book.device_ns()[Category.UNALLOCATED]
    agent.eventually(is_read, "readings come again")
    agent.eventually(
        lambda: agent.book.device_ns()[Category.UNALLOCATED] > idle_ns + NS_PER_SECOND,
        "idle time is known again",
    )
    assert "collector nvml" not in agent.door.says()
    assert agent.stop() == 0, agent.log

    assert set(agent.book.device_ns()) == {Category.UNALLOCATED, Category.UNATTRIBUTED}
    assert {
        reason
        for (reason,) in agent.book.rows(
            "select reason from charge where category = ?1 union "
            "select reason from accrual where category = ?1",
            int(Category.UNATTRIBUTED),
        )
    } == {"telemetry_gap"}
    assert node.audit(agent.book) == []
    # No joule is lost in the gap: the counter went on, and its difference is in the book.
    ((settled_mj, settled_ns),) = agent.book.rows(
        "select sum(energy_mj), sum(end_ns - start_ns) from settlement"
    )
    idle_mw = PROFILES["h100"].power_idle_mw
    assert settled_mj == pytest.approx(idle_mw * settled_ns / NS_PER_SECOND, rel=0.05)
