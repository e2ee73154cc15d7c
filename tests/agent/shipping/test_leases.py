"""Between the thread that asks for devices and the one that knows the shared ledger's answer."""

from __future__ import annotations

from pathlib import Path

from apportion.agent.pipeline.ownership import DeviceLocks
from apportion.agent.shipping.leases import ASKED_NS, Leases
from apportion.core.clock import ManualClock
from apportion.core.ids import DeviceId
from apportion.cost.ledger.lease import Claimed

A, B = DeviceId("GPU-a"), DeviceId("GPU-b")


def test_nothing_is_taken_before_it_is_granted() -> None:
    """A new device waits for the shared ledger; the reason says so, and then who has it."""
    leases = Leases({}, ManualClock())
    assert not leases.own(A)
    assert "not granted its lease yet" in leases.reason(A)
    assert leases.unanswered()
    leases.answer(Claimed({}, {A: "node-2"}))
    assert not leases.own(A)
    assert leases.reason(A) == "the agent on node-2 holds its lease in the shared ledger"
    assert not leases.unanswered()
    assert leases.take_changed() == set()
    leases.answer(Claimed({A: 3}, {}))
    assert leases.own(A)
    assert leases.take_changed() == {A}, "it may have been another's meanwhile"
    assert leases.take_changed() == set()


def test_what_is_held_stays_without_an_answer() -> None:
    """An agent that is cut off, or that restarts meanwhile, goes on with what it holds."""
    leases = Leases({A: 2}, ManualClock())
    assert leases.own(A)
    assert leases.wanted() == [A]
    assert not leases.unanswered()
    leases.answer(Claimed({A: 2}, {}))
    assert leases.own(A)
    assert leases.take_changed() == set()


def test_what_is_lost_is_told_once() -> None:
    """Another agent took it; or it is ours again, but was another's in between."""
    leases = Leases({A: 2, B: 0}, ManualClock())
    leases.answer(Claimed({A: 4}, {B: "node-2"}))
    assert (leases.own(A), leases.own(B)) == (True, False)
    assert leases.take_changed() == {A, B}
    assert leases.held == {A: 4}
    assert leases.refused == {B: "node-2"}


def test_what_nobody_asks_for_runs_out() -> None:
    """A GPU that was moved to another host is not kept from it for ever."""
    clock = ManualClock()
    leases = Leases({A: 0}, clock)
    leases.own(B)
    clock.advance(ASKED_NS)
    assert sorted(leases.wanted()) == [A, B]
    leases.own(B)
    clock.advance(1)
    assert leases.wanted() == [B]
    leases.answer(Claimed({B: 0}, {}))
    assert leases.take_changed() == {A, B}
    assert not leases.unanswered()


def test_the_host_comes_first(tmp_path: Path) -> None:
    """What another agent of this host meters is not even claimed."""
    leases = Leases({}, ManualClock())
    alone = DeviceLocks(tmp_path, leases=leases)
    other = DeviceLocks(tmp_path)
    assert other.own(A)
    assert not alone.own(A)
    assert alone.is_taken(A)
    assert leases.wanted() == []
    assert not alone.own(B)
    assert "lease" in alone.reason[B]
    assert not alone.is_taken(B)
    leases.answer(Claimed({B: 0}, {}))
    assert alone.own(B)
    assert B not in alone.reason
    assert alone.take_changed() == {B}
    alone.close()
    other.close()
