"""Rings without devices: when they are told of, to whom, and how often."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from tests.agent.pipeline.test_intake import RING, Feed
from tests.agent.pipeline.world import SECOND

from apportion.agent.pipeline.unbound import PATIENCE_NS, UnboundRings
from apportion.client import layout


def _look(feed: Feed, unbound: UnboundRings) -> dict[str, str]:
    now_ns = feed.world.node(feed.world.now_ns)
    found = unbound.look(feed.intake.followed, now_ns)
    return {str(ring): name for ring, name in found.items()}


def test_a_ring_without_devices_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    """By workload and pid, after a while and not before; the sentence stays while it lasts."""
    feed, unbound = Feed(), UnboundRings()
    feed.poll(attach=True)
    assert _look(feed, unbound) == {}
    assert unbound.complaint is None
    feed.world.clock.advance(PATIENCE_NS)
    with caplog.at_level(logging.WARNING):
        assert _look(feed, unbound) == {RING: "workload 'p', pid 1"}
        feed.world.clock.advance(SECOND)
        _look(feed, unbound)
    assert len(caplog.records) == 1
    assert [unbound.complaint] == caplog.messages
    assert caplog.messages[0].startswith("no device is known for workload 'p', pid 1: ")


def test_a_ring_with_devices_is_not_told_of() -> None:
    """A process whose device is known has nothing to mend."""
    feed, unbound = Feed(), UnboundRings()
    feed.poll(attach=True)
    feed.intake.followed[RING].state.bind(0, 1)
    feed.world.clock.advance(PATIENCE_NS)
    assert _look(feed, unbound) == {}


def test_a_ring_that_ended_is_no_longer_told_of() -> None:
    """Nobody can name its devices any more."""
    feed, unbound = Feed(), UnboundRings()
    feed.poll(attach=True)
    feed.world.clock.advance(PATIENCE_NS)
    assert _look(feed, unbound)
    feed.poll(alive=False, finished=True)
    assert _look(feed, unbound) == {}
    assert unbound.complaint is None


def test_a_door_with_nothing_of_its_own_needs_no_devices() -> None:
    """Its requests are those of servers, which have theirs; until it tells of more."""
    feed, unbound = Feed(), UnboundRings()
    feed.poll(attach=True)
    ring = feed.intake.followed[RING]
    ring.identity = replace(ring.identity, said=replace(ring.identity.said, kind=layout.DOOR))
    feed.world.clock.advance(PATIENCE_NS)
    assert _look(feed, unbound) == {}
    ring.speaks = True
    assert _look(feed, unbound)
