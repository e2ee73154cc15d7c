"""Loaded cost: every unit of a workload's pool goes to its own rows, and to no others."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.agent.cli import main
from apportion.core.category import Category
from apportion.core.interval import Interval
from apportion.core.units import NS_PER_HOUR
from apportion.cost.loaded_cost import POOLED, Loading, WorkloadCost, loaded_cost
from apportion.cost.report_rows import Key
from apportion.cost.rounding import divided
from apportion.cost.testing import Claim, LedgerBuilder

T0 = 472_222 * NS_PER_HOUR
LARGE = 10**30

costs = st.lists(
    st.builds(
        WorkloadCost,
        st.sampled_from(["a", "b", None]),
        st.sampled_from([("x",), ("y",), ("z",), (None,)]),
        st.sampled_from(list(Category)),
        st.none() | st.integers(0, 50) | st.integers(0, LARGE),
    ),
    max_size=30,
)


@given(costs, st.sampled_from(Loading))
def test_nothing_is_made_or_lost(given_costs: list[WorkloadCost], loading: Loading) -> None:
    """Loaded and unshared together are direct and pools; no other category is in them."""
    found = loaded_cost(given_costs, loading)
    relevant = {*POOLED, Category.DIRECT}
    total = sum(cost.units or 0 for cost in given_costs if cost.category in relevant)
    assert sum(found.units.values()) + found.unshared == total
    direct: dict[Key, int] = {}
    for cost in given_costs:
        if cost.category is Category.DIRECT and cost.units is not None:
            direct[cost.key] = direct.get(cost.key, 0) + cost.units
    assert found.units.keys() == direct.keys()
    assert all(found.units[key] >= units for key, units in direct.items())
    if loading is Loading.NONE:
        assert found.units == direct


@given(costs, st.sampled_from(Loading), st.randoms())
def test_order_does_not_matter(
    given_costs: list[WorkloadCost], loading: Loading, random: st.DrawFn
) -> None:
    """Rows in any order get the same, to the unit."""
    shuffled = list(given_costs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = loaded_cost(given_costs, loading), loaded_cost(shuffled, loading)
    assert one == other


def test_policies() -> None:
    """Weighted goes by direct cost, even by rows; a workload never pays for another one."""
    found = [
        WorkloadCost("a", ("x",), Category.DIRECT, 30),
        WorkloadCost("a", ("y",), Category.DIRECT, 10),
        WorkloadCost("b", ("x",), Category.DIRECT, 1),
        WorkloadCost("a", (None,), Category.STARTUP, 100),
        WorkloadCost("a", (None,), Category.LOST, 1_000),
        WorkloadCost("a", (None,), Category.UNINSTRUMENTED, 1_000),
        WorkloadCost("c", (None,), Category.ALLOCATED_IDLE, 7),
    ]
    assert loaded_cost(found, Loading.WEIGHTED) == ({("x",): 106, ("y",): 35}, 7)
    assert loaded_cost(found, Loading.EVEN) == ({("x",): 81, ("y",): 60}, 7)
    assert loaded_cost(found, Loading.NONE) == ({("x",): 31, ("y",): 10}, 107)


@given(st.integers(-LARGE, LARGE), st.lists(st.integers(0, LARGE), min_size=1, max_size=8))
def test_sums_of_any_size_are_divided(amount: int, weights: list[int]) -> None:
    """More than 64 bits, or less than nothing: parts add up, each within a unit of its quota."""
    parts = divided(amount, weights, range(len(weights)))
    assert sum(parts) == amount
    total = sum(weights)
    if total:
        for part, weight in zip(parts, weights, strict=True):
            assert abs(part * total - amount * weight) < total


def test_nobody_to_share_with() -> None:
    """Something to share and nobody to take it is an error, nothing is not."""
    assert divided(0, [], []) == []
    with pytest.raises(ValueError, match="nobody to share"):
        divided(1, [], [])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A server for two tenants on one device: 1 and 3 minutes direct, the rest of the hour idle."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    builder.rate(1, 60 * 10**12)
    builder.entity(1, "serve", tenant="a")
    builder.entity(2, "serve", tenant="b")
    builder.entity(3, "serve")
    builder.ring(1)
    minute = NS_PER_HOUR // 60
    for number, start, end in ((1, 0, 1), (2, 1, 4)):
        span = Interval(T0 + start * minute, T0 + end * minute)
        builder.span(1, number, span, entity=number)
        builder.settle(1, span, [Claim(Category.DIRECT, 1, number, 1, number)], rate=1)
    idle = Claim(Category.ALLOCATED_IDLE, 1, 3)
    builder.settle(1, Interval(T0 + 4 * minute, T0 + NS_PER_HOUR), [idle], rate=1)
    place = tmp_path / "ledger.db"
    builder.ledger(place).close()
    return place


@pytest.mark.parametrize(
    ("policy", "a", "b", "unshared"),
    [("none", 1, 3, 56), ("weighted", 15, 45, 0), ("even", 29, 31, 0)],
)
def test_in_every_form(
    path: Path,
    policy: str,
    a: int,
    b: int,
    unshared: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Table, JSON and CSV have the same column and name the policy; dollars here are minutes."""
    command = ["report", "--ledger", str(path), "--by", "tenant", "--loaded", policy, "--format"]
    assert main([*command, "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["loading"]["policy"] == policy
    assert document["loading"]["unshared"]["units"] == unshared * 10**12
    loaded = {row["tenant"]: row["loaded"]["units"] for row in document["rows"]}
    assert loaded == {"a": a * 10**12, "b": b * 10**12, None: None}
    assert main([*command, "csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [line["loaded_units"] for line in lines] == [str(a * 10**12), str(b * 10**12), ""]
    assert {line["loading"] for line in lines} == {policy}
    assert main([*command, "table"]) == 0
    text = capsys.readouterr().out
    assert f"  loaded         {policy}: direct cost" in text
    assert f"{a}.000000" in text
    assert ("of it not shared" in text) == bool(unshared)


def test_not_asked_for(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --loaded nothing of it is in the report, and the columns of CSV are empty."""
    assert main(["report", "--ledger", str(path), "--format", "csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {line["loaded_units"] for line in lines} == {""}
    assert main(["report", "--ledger", str(path)]) == 0
    assert "loaded" not in capsys.readouterr().out
