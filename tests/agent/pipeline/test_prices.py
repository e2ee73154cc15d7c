"""Prices through the whole settlement: a change inside an interval, and MIG instances' shares."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.agent.pipeline.world import H100, HOUR, SECOND, World, rate

from apportion.agent.cli import main
from apportion.agent.pipeline.seen import Seen
from apportion.collectors.collector import Batch
from apportion.core.category import SpanKind
from apportion.core.ids import DeviceId
from apportion.core.reading import DeviceInfo
from apportion.core.units import UNITS_PER_CURRENCY
from apportion.cost.audit import audit
from apportion.cost.price_row import Rate
from apportion.cost.prices.instants import instant_text
from apportion.cost.prices.mig import MigDevice
from apportion.cost.rate import PriceTable

NINE = 494_445 * HOUR
"""The start of some hour, in unix time."""
PLACEMENT = {
    "cloud": "aws",
    "zone": "us-east-1a",
    "instance_type": "p5.48xlarge",
    "capacity": "spot",
}


def spot_table(folder: Path, prices: list[tuple[int, str]]) -> PriceTable:
    """An imported history: (seconds after NINE, price of an instance with eight H100s)."""
    history = [
        {
            "AvailabilityZone": "us-east-1a",
            "InstanceType": "p5.48xlarge",
            "ProductDescription": "Linux/UNIX",
            "SpotPrice": price,
            "Timestamp": instant_text(NINE + seconds * SECOND),
        }
        for seconds, price in prices
    ]
    path, into = folder / "spot.json", folder / "spot.yaml"
    into.unlink(missing_ok=True)
    path.write_text(json.dumps({"SpotPriceHistory": history}))
    command = ["prices", "import", "aws-spot", str(path), "--into", str(into)]
    command += ["--as-of", "2026-05-01", "--device", "H100", "--devices", "8"]
    assert main(command) == 0
    return PriceTable.load(into).at(PLACEMENT)


def floor_meter(price: Rate, start_ns: int, end_ns: int) -> int:
    """R(end) - R(start), by the definition and hour by hour: floor of rate times time since T0."""
    total, at_ns = 0, start_ns
    while at_ns < end_ns:
        hour_ns = at_ns - at_ns % HOUR
        until_ns = min(end_ns, hour_ns + HOUR)
        origin_ns = max(hour_ns, price.valid_from_ns or hour_ns)
        edges = [
            price.units_per_hour * (instant - origin_ns) // HOUR for instant in (at_ns, until_ns)
        ]
        total, at_ns = total + edges[1] - edges[0], until_ns
    return total


@settings(max_examples=settings().max_examples // 8)
@given(
    st.lists(
        st.tuples(st.integers(3_571, 3_640), st.integers(1, 60_000_000)),
        min_size=1,
        max_size=4,
        unique_by=lambda change: change[0],
    )
)
def test_a_spot_price_that_changes_splits_a_span_exactly(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    """From the history's file to the ledger: each nanosecond at its own price, over the hour, too.

    The agent meters from 3,570 s after nine to 3,640 s; the table says when which price held.
    """
    folder = tmp_path_factory.mktemp("spot")
    prices = [(0, "24.5"), *((second, f"{price / 1e6:.6f}") for second, price in changes)]
    table = spot_table(folder, prices)
    world = World(table.rates, realtime_ns=NINE + 3_570 * SECOND)
    trainer = world.process("train", started_ns=None)
    world.read_all(0.9)
    step = trainer.start(SpanKind.STEP, world.now_ns)
    world.run(70 * SECOND, utilization=0.9)
    trainer.finish(step, world.now_ns)
    world.settle()
    offset_ns = world.time.offset_ns
    (mark,) = world.rows("watermark")
    since_ns, until_ns = (mark[name] + offset_ns for name in ("since_ns", "settled_ns"))
    edges = [since_ns, *table.changes(H100, since_ns, until_ns), until_ns]
    expected = 0
    for start_ns, end_ns in pairwise(edges):
        held = table.rate_for(H100, start_ns)
        assert held is not None
        expected += floor_meter(held, start_ns, end_ns)
    settled = world.rows("settlement")
    assert sum(row["units"] for row in settled) == expected
    posted = [*world.rows("charge"), *world.rows("accrual")]
    assert sum(row["units"] for row in posted) == expected
    lines = [row for row in world.rows("charge") if row["number"] == step.number]
    assert sum(row["device_ns"] for row in lines) == 70 * SECOND
    assert audit(world.ledger).holds


def test_mig_instances_and_the_rest_are_paid_as_their_gpu_is() -> None:
    """Four devices by NVML's names, one price row: together the GPU's rate, by compute slices."""
    profiles = ("3g.40gb", "1g.10gb", "1g.10gb+me")
    devices = [MigDevice(H100, (profile,)) for profile in profiles]
    devices.append(MigDevice(H100, profiles, rest=True))
    infos = [
        DeviceInfo(DeviceId(f"MIG-{index}"), device.name, index, "nvml")
        for index, device in enumerate(devices)
    ]
    price = Fraction(10 * UNITS_PER_CURRENCY, 3)
    table = PriceTable((rate(price),))
    seen = Seen(table)
    seen.take(Batch(devices=tuple(infos)))
    rates = [one for info in infos for one in seen.rates_of(info.name)]
    assert [one.units_per_hour / price for one in rates] == [
        Fraction(3, 7),
        Fraction(1, 7),
        Fraction(1, 7),
        Fraction(2, 7),
    ]
    world = World(rates, devices=4, realtime_ns=NINE)
    world.infos = infos
    world.energy_mj = dict.fromkeys((info.device for info in infos), 7_000)
    world.read_all(0.0)
    world.run(120 * SECOND, utilization=0.0)
    marks = world.rows("watermark")
    assert len({(row["since_ns"], row["settled_ns"]) for row in marks}) == 1
    whole = floor_meter(table.rates[0], marks[0]["since_ns"], marks[0]["settled_ns"])
    units = [row["units"] for row in world.rows("settlement")]
    assert whole - 4 < sum(units) <= whole
    assert audit(world.ledger).holds
