"""The shared words: numbers that ledgers and rings hold, units, clocks, identities, errors."""

from __future__ import annotations

import threading
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.client import layout
from apportion.core import errors
from apportion.core.category import (
    INPUT_PHASES,
    SETTLED,
    Category,
    Phase,
    PhaseClock,
    SpanKind,
    SpanStatus,
)
from apportion.core.clock import Clock, ManualClock, SystemClock
from apportion.core.ids import DeviceGroup, DeviceId, RingId, SpanId
from apportion.core.units import joules, money, seconds, units_of


def test_stored_numbers_never_change() -> None:
    """Old ledgers must stay readable: new members are appended."""
    assert [c.label for c in Category] == [
        "direct",
        "checkpoint",
        "evaluation",
        "startup",
        "between_steps",
        "uninstrumented",
        "allocated_idle",
        "unallocated",
        "unattributed",
        "lost",
        "commitment_unused",
        "billing_rounding",
    ]
    assert [int(category) for category in Category] == list(range(1, 13))
    assert tuple(Category)[:9] == SETTLED
    assert [phase.label for phase in Phase][:3] == ["", "prefill", "decode"]
    assert Phase.PREFILL in INPUT_PHASES
    assert Phase.DECODE not in INPUT_PHASES


def test_the_rings_numbers_are_the_vocabularys() -> None:
    """The client may not import core, so this holds the two together."""
    assert layout.KINDS == {kind.label: int(kind) for kind in SpanKind}
    assert layout.STATUSES == {status.label: int(status) for status in SpanStatus}
    assert layout.PHASES == {phase.label: int(phase) for phase in Phase if phase}
    clocks = (layout.CLOCK_HOST, layout.CLOCK_HOST_LAUNCH, layout.CLOCK_DEVICE)
    assert clocks == tuple(map(int, PhaseClock))


def test_roots_have_their_category() -> None:
    """A checkpoint is no work of a step."""
    assert SpanKind.CHECKPOINT.category is Category.CHECKPOINT
    assert SpanKind.EVALUATION.category is Category.EVALUATION
    assert SpanKind.STEP.category is SpanKind.REQUEST.category is Category.DIRECT


@given(st.integers(-(10**24), 10**24))
def test_money_is_exact(units: int) -> None:
    """Twelve decimals there and back."""
    assert units_of(money(units)) == units


def test_more_than_twelve_decimals_are_refused() -> None:
    """Silent rounding of a price would be a wrong price."""
    with pytest.raises(ValueError, match="12 decimals"):
        units_of(Decimal("0.0000000000001"))
    assert seconds(1_500_000_000) == 1.5
    assert joules(250) == 0.25


def test_a_manual_clock_only_moves_when_it_is_turned() -> None:
    """Both clocks go on together; only the wall clock can be set."""
    clock: Clock = ManualClock(5, 100)
    assert isinstance(clock, ManualClock)
    clock.advance(10)
    clock.step_realtime(-50)
    assert (clock.monotonic_ns(), clock.realtime_ns()) == (15, 60)
    with pytest.raises(ValueError, match="cannot go back"):
        clock.advance(-1)
    event = threading.Event()
    assert not clock.wait(event, 7)
    assert clock.monotonic_ns() == 22
    event.set()
    assert clock.wait(event, 7)
    assert clock.monotonic_ns() == 22


def test_the_systems_clock_goes_forward() -> None:
    """And a set event is not waited for."""
    clock = SystemClock()
    first = clock.monotonic_ns()
    event = threading.Event()
    event.set()
    assert clock.wait(event, 10**12)
    assert not clock.wait(threading.Event(), -5)
    assert clock.monotonic_ns() >= first
    assert clock.realtime_ns() > 0


def test_identities_read_as_people_write_them() -> None:
    """In messages and reports."""
    assert str(SpanId(RingId("ab"), 3)) == "ab/3"
    assert str(DeviceGroup((DeviceId("GPU-1"), DeviceId("GPU-2")))) == "GPU-1+GPU-2"


def test_a_config_error_says_where() -> None:
    """File and line come first, as editors expect."""
    assert str(errors.ConfigError("no such key")) == "no such key"
    assert str(errors.ConfigError("no such key", path=Path("a.yaml"))) == "a.yaml: no such key"
    error = errors.PriceTableError("a float", path="p.yaml", line=3)
    assert str(error) == "p.yaml:3: a float"
    assert isinstance(error, errors.ApportionError)
    for kind in (errors.NoData, errors.DeviceLost, errors.SourceLost):
        assert issubclass(kind, errors.CollectorError)
    assert issubclass(errors.LedgerUnavailable, errors.LedgerError)
