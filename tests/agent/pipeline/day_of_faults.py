"""A program: hours of random faults of SIMULATED GPUs, on a clock that does not wait.

    python -m tests.agent.pipeline.day_of_faults STATE SEED HOURS

The real collector reads the simulated library in this process, the real settlement settles what it
read beside processes that start, work and die, agents that are killed and ledgers that fail. What
would hang or end this process is played: nobody reads meanwhile. Prints one JSON object.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Final

from tests.agent.pipeline.world import H100, SECOND, Process, Span, World, rate

from apportion.agent.pipeline.readings import take_batch
from apportion.agent.pipeline.seen import Seen
from apportion.collectors.nvml import NvmlReader
from apportion.collectors.nvml_pynvml import PynvmlLibrary
from apportion.core.category import Category, SpanKind
from apportion.core.errors import CollectorError
from apportion.core.reading import DeviceInfo, Reading
from apportion.core.units import NS_PER_HOUR
from apportion.cost.audit import audit
from apportion.cost.rate import PriceTable
from apportion.simulator import Simulator
from apportion.simulator.faults import KINDS

PERIOD_NS: Final = 180 * SECOND
TICK_EVERY: Final = 5
GPUS: Final = 3
CUT: Final = 2
"""The GPU that MIG cuts; no process of ours computes on it."""
LAYOUTS: Final = (None, ["3g.40gb", "2g.20gb"], ["3g.40gb"], ["7g.80gb"], ["1g.10gb"] * 7)
PLAYED: Final = ("hang", "crash", "slow", "driver-reload")
"""They end the process that reads, or make another one necessary."""
SINGLE: Final = sorted(name for name, kind in KINDS.items() if kind.single and name not in PLAYED)
WHOLE: Final = sorted(name for name, kind in KINDS.items() if kind.whole and name not in PLAYED)


class Day:
    """One host from beginning to end."""

    def __init__(self, state: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.world = World(
            [rate(2), rate(1, f"{H100} MIG 3g.40gb")], devices=GPUS, sample_period_ns=PERIOD_NS
        )
        self.simulator = Simulator(state, devices=GPUS, clock=self.world.clock, seed=seed)
        self.seen = Seen(PriceTable())
        self.reader: NvmlReader | None = None
        self.dead_until_ns = 0
        self.spans: list[tuple[Process, Span]] = []
        self.happened: Counter[str] = Counter()
        self.used_mj = 0
        self._counter_mj = [self.simulator.energy_mj(index) for index in range(GPUS)]

    def step(self, number: int) -> None:
        """A period: something happens, GPUs are read, and sometimes a tick."""
        self.world.clock.advance(PERIOD_NS)
        self.simulator.advance()
        self._count_energy()
        self._faults()
        self._work()
        self._read()
        if number % TICK_EVERY == 0:
            self._disturb()
            self.world.tick()

    def end(self) -> None:
        """All is well again, and everything is settled."""
        self.simulator.clear()
        self.dead_until_ns = 0
        for process in {id(process): process for process, _ in self.spans}.values():
            self.world.die(process)
            self.world.report_death(process)
        for number in range(5 * TICK_EVERY):
            self.world.clock.advance(PERIOD_NS)
            self.simulator.advance()
            self._count_energy()
            self._read()
            if number % TICK_EVERY == 0:
                self.world.tick()
        self.world.tick()

    # -- what happens ----------------------------------------------------------------------------
    def _chance(self, of: float, what: str) -> bool:
        chosen = self.random.random() < of
        self.happened[what] += chosen
        return chosen

    def _faults(self) -> None:
        index = self.random.randrange(GPUS)
        if self._chance(0.06, "fault"):
            name = self.random.choice(SINGLE)
            self.simulator.fault(name, index)
            self.happened[name] += 1
        if self._chance(0.12, "mended"):
            self.simulator.clear(index)
        if self._chance(0.01, "library"):
            name = self.random.choice(WHOLE)
            self.simulator.fault(name)
            self.happened[name] += 1
        if self._chance(0.02, "all mended"):
            self.simulator.clear()
        if self._chance(0.008, "played"):
            self.dead_until_ns = self.world.now_ns + self.random.randrange(1, 20) * PERIOD_NS
        if self._chance(0.02, "mig"):
            self.simulator.set_mig(CUT, self.random.choice(LAYOUTS))
        self.simulator.set_utilization(index, self.random.random())

    def _work(self) -> None:
        """Processes on the other GPUs start, compute, and end well or badly."""
        world = self.world
        for place, (process, span) in reversed(list(enumerate(self.spans))):
            if self._chance(0.2, "finished"):
                process.finish(span, world.now_ns)
                world.deliver(process)
                del self.spans[place]
            elif self._chance(0.01, "killed"):
                world.die(process)
                world.report_death(process)
                self.spans = [each for each in self.spans if each[0] is not process]
                break
        if len(self.spans) < 4 and self._chance(0.1, "started"):
            index = self.random.choice([each for each in range(GPUS) if each != CUT])
            name = f"p{self.happened['started']}"
            process = world.process(name, (index,), started_ns=world.now_ns)
            self.spans.append((process, process.start(SpanKind.STEP, world.now_ns)))

    def _disturb(self) -> None:
        """Of the agent and its ledger."""
        if self._chance(0.02, "agent killed"):
            self.seen = Seen(PriceTable())
            self._close()
            self.world.boot_agent()
        if self._chance(0.03, "ledger failed"):
            self.world.ledger.fail_at = self.random.randrange(4)
        if self._chance(0.01, "wall clock stepped"):
            self.world.clock.step_realtime(self.random.randrange(-5, 6) * SECOND)

    # -- the collector ---------------------------------------------------------------------------
    def _read(self) -> None:
        if self.world.now_ns < self.dead_until_ns:
            self._close()
            return
        try:
            if self.reader is None:
                self.reader = NvmlReader(PynvmlLibrary(), self.world.clock, period_ns=PERIOD_NS)
                self.reader.open()
            batch = self.reader.read()
        except CollectorError:
            self._close()
            return
        self.happened["failures"] += len(batch.failures)
        self.happened["ended"] += len(batch.ended)
        take_batch(
            batch,
            self.seen,
            self.world.settlement,
            self._take,
            source="nvml",
            now_ns=self.world.now_ns,
        )

    def _close(self) -> None:
        """What the end of its process does for it."""
        if self.reader is not None:
            self.reader.close()
            self.reader = None

    def _take(self, info: DeviceInfo | None, reading: Reading) -> None:
        assert info is not None, f"{reading.device} was not told of"
        self.happened["readings"] += 1
        for index, uuid in enumerate(self.simulator.uuids):
            if reading.device == uuid:
                self.world.infos[index] = info
        self.world.settlement.read(info, reading)

    def _count_energy(self) -> None:
        """What the counters show, over resets."""
        for index in range(GPUS):
            now_mj = self.simulator.energy_mj(index)
            before_mj, self._counter_mj[index] = self._counter_mj[index], now_mj
            self.used_mj += now_mj - before_mj if now_mj >= before_mj else now_mj


def run(state: Path, seed: int, hours: int) -> dict[str, object]:
    """What came of it."""
    day = Day(state, seed)
    first_ns = day.world.now_ns
    for number in range(hours * NS_PER_HOUR // PERIOD_NS):
        day.step(number)
    day.end()
    found = audit(day.world.ledger)
    ids = {row["device_key"]: row["device"] for row in day.world.rows("device")}
    settled: Counter[str] = Counter()
    settled_mj = 0
    for row in day.world.rows("settlement"):
        settled[ids[row["device_key"]]] += row["end_ns"] - row["start_ns"]
        settled_mj += row["energy_mj"] or 0
    whole = (uuid for index, uuid in enumerate(day.simulator.uuids) if index != CUT)
    return {
        "findings": [str(check.finding) for check in found.checks if not check.holds],
        # From the first reading to the last but one: settlement stays 2 s behind now.
        "metered_ns": day.world.now_ns - first_ns - 2 * PERIOD_NS,
        "settled_ns": [settled[uuid] for uuid in whole],
        "settled_mj": settled_mj,
        "used_mj": day.used_mj,
        "categories": sorted({Category(row["category"]).label for row in day.world.rows("charge")}),
        "happened": dict(day.happened),
    }


if __name__ == "__main__":
    _, state, seed, hours = sys.argv
    sys.stdout.write(json.dumps(run(Path(state), int(seed), int(hours))))
