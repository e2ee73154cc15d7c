"""From a ring's clock to the host's."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from apportion.agent.ingest import ClockPair, clock_offset_ns
from apportion.agent.ingest.clock_offset import NOISE_NS, same_time_namespace

DAY_NS = 86_400_000_000_000
TIMES = st.integers(0, 10**18)


@given(TIMES, TIMES, TIMES, st.integers(-DAY_NS, DAY_NS))
def test_the_offset_of_a_namespace_is_found(
    boot_ns: int, made_ns: int, now_ns: int, shift_ns: int
) -> None:
    """Protects spans of a container with a shifted clock, for any shift of a second or more."""
    agent = ClockPair(now_ns, boot_ns + now_ns)
    ring = ClockPair(made_ns + shift_ns, boot_ns + made_ns)
    expected = -shift_ns if abs(shift_ns) >= NOISE_NS else 0
    assert clock_offset_ns(ring, [agent]) == expected


@given(TIMES, st.lists(st.integers(-DAY_NS, DAY_NS), min_size=1, max_size=5), st.data())
def test_steps_of_the_wall_clock_that_were_seen_are_no_namespace(
    boot_ns: int, steps_ns: list[int], data: st.DataObject
) -> None:
    """Protects rings made before NTP corrected the clock."""
    walls = [boot_ns]
    for step_ns in steps_ns:
        walls.append(walls[-1] + step_ns)
    wall_ns = data.draw(st.sampled_from(walls))
    ring = ClockPair(5, 5 + wall_ns)
    pairs = [ClockPair(at, at + wall) for at, wall in enumerate(walls)]
    assert clock_offset_ns(ring, pairs) == 0


def test_with_nothing_to_compare_the_clock_is_the_hosts() -> None:
    """Protects against an offset out of nothing."""
    assert clock_offset_ns(ClockPair(1, 2), []) == 0


def test_this_process_shares_its_own_time_namespace() -> None:
    """Protects the shortcut for processes that the agent can look at."""
    if not Path("/proc/self/ns/time").exists():
        pytest.skip("needs a kernel with time namespaces")
    assert same_time_namespace(os.getpid(), Path("/proc")) is True


def test_what_proc_does_not_tell_is_unknown(tmp_path: Path) -> None:
    """Protects against taking a hidden process for a neighbour."""
    assert same_time_namespace(0, Path("/proc")) is None
    assert same_time_namespace(5, tmp_path) is None


def test_another_namespace_is_told_apart(tmp_path: Path) -> None:
    """Protects the offset of a container whose namespace can be seen."""
    for owner in ("self", "5"):
        (tmp_path / owner / "ns").mkdir(parents=True)
        (tmp_path / owner / "ns" / "time").write_bytes(b"")
    assert same_time_namespace(5, tmp_path) is False
