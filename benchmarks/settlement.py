"""How many spans a second one core takes from ring records to a committed ledger.

    python benchmarks/settlement.py

Eight rings' records lie in memory as ingest hands them on; they go through `Settlement.absorb`,
`tick` and the ledger's commit on a file. Requests have ids, tokens and phases by first token;
steps have no attributes.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from datetime import date
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apportion.agent.ingest import RECORD, Identity, RingIdentity
from apportion.agent.metrics.labels import LabelFolder
from apportion.agent.pipeline.interned import EntityKey
from apportion.agent.pipeline.node_time import NodeTime
from apportion.agent.pipeline.registry import DeviceKey
from apportion.agent.pipeline.settlement import Settlement
from apportion.client import layout
from apportion.core.category import SpanKind, SpanStatus
from apportion.core.clock import ManualClock
from apportion.core.ids import DeviceId, RingId
from apportion.core.reading import DeviceInfo, Reading
from apportion.core.units import NS_PER_SECOND, Millijoules, MonotonicNs
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.price_row import Rate

DEVICE = "NVIDIA H100 80GB HBM3"
MODEL = "llama-3.1-8b"
"""Known: its requests are settled by need."""
RINGS = 8
TICKS = 6
TICK_SECONDS = 5
SPANS_PER_RING_AND_SECOND = 2_500
"""Eight rings: 20,000 spans a second of the workloads' time, 100,000 a tick."""


def records(kind: SpanKind, first: int, start_ns: int, count: int) -> NDArray[np.void]:
    """Ended spans of one ring, evenly over `TICK_SECONDS`; four requests overlap."""
    found = np.zeros(count, RECORD)
    for name in (*layout.COUNTERS, "step"):
        found[name] = layout.ABSENT
    period_ns = TICK_SECONDS * NS_PER_SECOND // count
    numbers = np.arange(first, first + count)
    found["sequence"] = found["number"] = numbers
    found["packed"] = int(kind) | int(SpanStatus.OK) << layout.STATUS_SHIFT
    found["start_ns"] = start_ns + period_ns * np.arange(count)
    lasting_ns = period_ns * 9 // 10
    if kind is SpanKind.REQUEST:
        lasting_ns = period_ns * 4
        found["scheduled_ns"] = found["start_ns"] + period_ns // 100
        found["first_token_ns"] = found["start_ns"] + period_ns
        found["input_tokens"], found["output_tokens"] = 512, 128
        found["tenant"] = 2 + numbers % 20
        identity = np.zeros((count, layout.REQUEST_ID_BYTES), np.uint8)
        identity[:, 0], identity[:, 2:14] = 12, ord("a") + numbers[:, None] % 26
        found["request_id"] = identity.view("V64")[:, 0]
    else:
        found["step"] = numbers
    found["end_ns"] = found["start_ns"] + lasting_ns
    return found


def spans_per_second(kind: SpanKind, folder: Path, model: str | None = None) -> float:
    """Spans a second of the process's CPU clock, over `TICKS` ticks: a neighbour does not count."""
    clock = ManualClock(1_000 * NS_PER_SECOND, 1_780_000_200 * NS_PER_SECOND)
    path = folder / f"{kind.label} {model}.db"
    ledger = Ledger.open(
        path, node="n", cluster=None, currency="USD", version="benchmark", clock=clock
    )
    state = ledger.load_state(0)
    node_time = NodeTime.of_ledger("0" * 32, clock, state)
    info = DeviceInfo(DeviceId("GPU-0"), DEVICE, 0, "nvml")
    price = Rate(
        DEVICE,
        Fraction(2_490_000_000_000),
        "2.49",
        "USD",
        "gpu",
        "list",
        "a test",
        date(2026, 5, 1),
    )
    settlement = Settlement(
        state,
        time=node_time,
        folder=LabelFolder(dict.fromkeys(("workload", "run", "tenant", "model", "pod"), 20)),
        rates_of=lambda _name: [price],
        users_of=lambda _device: [],
        holders_of=lambda _device: [],
        lateness_ns=2 * NS_PER_SECOND,
        sample_period_ns=NS_PER_SECOND,
    )
    rings = [
        settlement.attach(
            RingIdentity(
                RingId(f"{index:032x}"),
                10 + index,
                10 + index,
                0,
                "0" * 32,
                clock.monotonic_ns(),
                None,
                None,
                0,
                1,
                Identity(workload="llm"),
            )
        )
        for index in range(RINGS)
    ]

    @cache
    def entity(tenant: int, _model: int, _adapter: int) -> int:
        """As intake does: asked once for each three words of a ring."""
        return settlement.entity(EntityKey(workload="llm", model=model, tenant=f"tenant {tenant}"))

    def read() -> None:
        now_ns = MonotonicNs(clock.monotonic_ns())
        energy = Millijoules(now_ns // 2_000_000)
        settlement.read(
            info,
            Reading(
                info.device,
                now_ns,
                energy_mj=energy,
                energy_source="energy_counter",
                utilization_ratio=0.9,
            ),
        )

    read()
    key = settlement.registry.devices.key(DeviceKey.of(info))
    for ring in rings:
        settlement.bound(ring, (key,), "user", node_time.of(clock.monotonic_ns()))
    count = SPANS_PER_RING_AND_SECOND * TICK_SECONDS
    spent_s, spans = 0.0, 0
    for tick in range(TICKS):
        batches = [
            records(kind, 1 + tick * count, clock.monotonic_ns() + index, count)
            for index in range(RINGS)
        ]
        polls = TICK_SECONDS * 25
        for _ in range(TICK_SECONDS):
            clock.advance(NS_PER_SECOND)
            read()
        late = np.zeros(count, np.bool_)
        begun_s = time.process_time()
        for poll in range(polls):
            part = slice(poll * count // polls, (poll + 1) * count // polls)
            for ring, batch in zip(rings, batches, strict=True):
                settlement.absorb(ring, batch[part], late[part], entity)
        now_ns = node_time.of(clock.monotonic_ns())
        outcome = settlement.tick(now_ns, now_ns, ledger)
        spent_s += time.process_time() - begun_s
        assert outcome.residual == (0, 0)
        spans += RINGS * count
    ledger.close()
    return spans / spent_s


def run() -> dict[str, object]:
    """The result of each scenario, in spans a second."""
    with tempfile.TemporaryDirectory() as folder:
        scenarios = {
            "step": (SpanKind.STEP, None),
            "request": (SpanKind.REQUEST, None),
            "request_by_need": (SpanKind.REQUEST, MODEL),
        }
        return {
            f"{name}_spans_per_second": round(spans_per_second(kind, Path(folder), model))
            for name, (kind, model) in scenarios.items()
        }


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
    sys.exit(0)
