"""Counters: plain ints, summed, and never a number that was not reported."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.client.decoded import only

from apportion import client
from apportion.client import layout
from apportion.client.counters import NONE_REPORTED, NUMBER_LIMIT, summed
from apportion.client.counting import forget_counts

NAMES = [*layout.COUNTERS, *layout.COUNTER_ALIASES]
Adds = st.lists(st.dictionaries(st.sampled_from(NAMES), st.integers(0, 1 << 40), max_size=4))


class Number(IntEnum):
    """An int that is not a plain one."""

    FIVE = 5


def stored(directory: Path) -> list[dict[str, int]]:
    """The counters that were reported, of each record."""
    return [
        {name: each[name] for name in layout.COUNTERS if each[name] != layout.ABSENT}
        for each in only(directory).records
    ]


def expected(adds: list[dict[str, int]]) -> dict[str, int]:
    """What a sum of adds is, by the layout's names."""
    total: dict[str, int] = {}
    for add in adds:
        for name, value in add.items():
            own = layout.COUNTER_ALIASES.get(name, name)
            total[own] = total.get(own, 0) + value
    return total


@given(adds=Adds)
def test_adds_sum(tmp_path_factory: pytest.TempPathFactory, adds: list[dict[str, int]]) -> None:
    """However counters are said, by which name and in how many calls, their sum is stored."""
    directory = tmp_path_factory.mktemp("rings")
    client.init(workload="w", directory=directory, capacity=4)
    for made in (client.step(1), client.request("r"), client.evaluation()):
        with made as span:
            for add in adds:
                span.add(**add)
    assert [expected(adds)] * 3 == stored(directory)
    assert {} == client.counts()


def test_nothing_reported_is_absent(directory: Path) -> None:
    """A counter that nobody reported is absent, never 0; a 0 that was reported is 0."""
    with client.step(1):
        pass
    with client.request("r"):
        pass
    with client.request("r") as span:
        span.add(input_tokens=0, output_tokens=0, cached_input_tokens=None)
    assert [{}, {}, {"input_tokens": 0, "output_tokens": 0}] == stored(directory)


@pytest.mark.parametrize(
    "value", [-1, -5, 1 << 53, 1 << 70, True, 1.5, "7", Number.FIVE, [], float("nan")]
)
@pytest.mark.parametrize("name", ["input_tokens", "tokens", "prompt_tokens"])
def test_what_is_no_count_is_ignored(directory: Path, name: str, value: Any) -> None:
    """A value that is no plain int in range is left out and counted; the others stay."""
    with client.request("r") as served:
        served.add(**{name: value, "output_tokens": 7})
    with client.step(1) as trained:
        trained.add(**{name: value, "samples": 7})
    assert [{"output_tokens": 7}, {"samples": 7}] == stored(directory)
    assert {"counter_ignored": 2} == client.counts()


def test_unknown_names_are_ignored(directory: Path) -> None:
    """A misspelt counter does not raise into the workload."""
    more: dict[str, Any] = {"tokenz": 5, "other": object()}
    with client.request("r") as span:
        span.add(**more, input_tokens=3)
    assert [{"input_tokens": 3}] == stored(directory)
    assert {"counter_ignored": 2} == client.counts()


@given(before=st.integers(0, NUMBER_LIMIT - 1), value=st.integers(0, 1 << 64))
def test_a_sum_stays_in_range(before: int, value: int) -> None:
    """No counter ever reaches 2^53: what would is left out, and what was there stays."""
    forget_counts()
    first = summed(NONE_REPORTED, [before], {})
    found = summed(first, [value], {})[0]
    assert found == (before + value if before + value < NUMBER_LIMIT else before)
    assert (found == before and value > 0) == bool(client.counts())
    forget_counts()
