"""The settlement thread: polls rings, takes readings, ticks, publishes. One loop, no locks."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from apportion.agent.ingest.cost_file import PERIOD_NS as COSTS_NS
from apportion.agent.pipeline.binder import Binder
from apportion.agent.pipeline.device import GIVE_UP_NS
from apportion.agent.pipeline.door_polls import RECENT_NS
from apportion.agent.pipeline.ended_series import EndedSeries
from apportion.agent.pipeline.intake import MAX_UNSAVED_SPANS, Intake
from apportion.agent.pipeline.interned import EntityKey
from apportion.agent.pipeline.publisher import Facts, publish
from apportion.agent.pipeline.readings import take_batch
from apportion.agent.pipeline.seen import Seen
from apportion.agent.pipeline.settlement import Settlement
from apportion.agent.pipeline.totals import Who
from apportion.agent.pipeline.unbound import UnboundRings
from apportion.agent.pipeline.unread_files import UnreadFiles
from apportion.core.errors import LedgerUnavailable
from apportion.core.ids import DeviceId, RingId
from apportion.core.units import NS_PER_SECOND
from apportion.cost.ledger.history import History

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from apportion.agent.adjustment_watch import AdjustmentWatch
    from apportion.agent.budget_watch import BudgetWatch
    from apportion.agent.ingest import DirectoryPoll, Heartbeat, PodDirectories, RingDirectory
    from apportion.agent.ingest.cost_file import CostFile
    from apportion.agent.metrics.labels import LabelFolder
    from apportion.agent.pipeline.device import MeteredDevice
    from apportion.agent.pipeline.node_time import NodeTime
    from apportion.agent.pipeline.ownership import DeviceLocks
    from apportion.agent.pipeline.processes import Processes
    from apportion.agent.pipeline.sampler import Sampler
    from apportion.agent.pipeline.tick import TickOutcome
    from apportion.agent.shipping.shipper import Shipper
    from apportion.agent.snapshot import SnapshotBoard
    from apportion.agent.spender_watch import SpenderWatch
    from apportion.core.allocation import Pod
    from apportion.core.clock import Clock
    from apportion.core.reading import DeviceInfo, Reading
    from apportion.cost.ledger.batch import LedgerState
    from apportion.cost.ledger.ledger import Ledger
    from apportion.cost.methods.model_facts import ModelFacts
    from apportion.cost.rate import PriceTable

_LOG: Final = logging.getLogger(__name__)
POLL_NS: Final = 40_000_000
LOOKS: Final = 3
"""A record counts after so many polls, so what ended before the first of the last few is read."""
LAST_LOOKS: Final = 5
"""Before the end: two find a ring that was just made, three believe a record."""
HEARTBEAT_NS: Final = 2 * NS_PER_SECOND
PUBLISH_NS: Final = NS_PER_SECOND


class Engine:
    """Owns the settlement, and is the only one that touches it. A `Runner` service."""

    name = "settlement"

    def __init__(
        self,
        state: LedgerState,
        ledger: Ledger,
        directory: RingDirectory | PodDirectories,
        samplers: Sequence[Sampler],
        *,
        time: NodeTime,
        clock: Clock,
        locks: DeviceLocks,
        prices: PriceTable,
        models: Mapping[str, ModelFacts],
        processes: Processes,
        folder: LabelFolder,
        board: SnapshotBoard,
        heartbeat: Heartbeat,
        lateness_ns: int,
        sample_period_ns: int,
        telemetry_gap_ns: int,
        tick_period_ns: int,
        numbered: bool = True,
        shipper: Shipper | None = None,
        budgets: BudgetWatch | None = None,
        adjustments: AdjustmentWatch | None = None,
        costs: CostFile | None = None,
        spenders: SpenderWatch | None = None,
    ) -> None:
        self._spenders = spenders
        self._shipper, self._budgets, self._adjustments = shipper, budgets, adjustments
        self._agent_id, self._costs = state.agent_id, costs
        self._ledger, self._directory, self._samplers = ledger, directory, samplers
        self._time, self._clock = time, clock
        self._locks, self._prices, self._processes = locks, prices, processes
        self._folder, self._board, self._heart = folder, board, heartbeat
        self._tick_period_ns, self._sample_period_ns = tick_period_ns, sample_period_ns
        self._seen = Seen(prices)
        self._settlement = Settlement(
            state,
            time=time,
            folder=folder,
            rates_of=self._seen.rates_of,
            share_of=self._seen.share_of,
            users_of=self._users_of,
            holders_of=self._holders_of,
            pod_of=self._pod_of,
            lateness_ns=lateness_ns,
            sample_period_ns=sample_period_ns,
            telemetry_gap_ns=telemetry_gap_ns,
            models=models,
        )
        self._intake = Intake(self._settlement, time)
        self._binder = Binder(self._settlement, self._seen, locks, processes, numbered=numbered)
        self._ended = EndedSeries(self._settlement.totals, folder)
        self._unbound, self._unread = UnboundRings(), UnreadFiles()
        self._polls: deque[int] = deque(maxlen=LOOKS)
        self._facts = Facts(started_unix_ns=clock.realtime_ns())
        self._poll: DirectoryPoll | None = None
        self._drops: Counter[str] = Counter()
        self._due = {"tick": 0, "heartbeat": 0, "publish": 0, "bind": 0, "costs": 0}
        self._begun_ns: int = clock.monotonic_ns()

    @property
    def settlement(self) -> Settlement:
        """What it settles; for tests and for nobody else while `run` is running."""
        return self._settlement

    @property
    def facts(self) -> Facts:
        """Counters of the loop itself."""
        return self._facts

    def run(self, stop: threading.Event) -> None:
        """Loop until told to stop, then settle and commit what was read."""
        self._resume()
        due_ns: int = self._clock.monotonic_ns()
        self._due["tick"] = due_ns + self._tick_period_ns
        while not stop.is_set():
            self.turn()
            due_ns = max(due_ns + POLL_NS, self._clock.monotonic_ns())
            self._clock.wait(stop, due_ns - self._clock.monotonic_ns())
        self._last_turns()

    def shutdown(self, timeout_ns: int) -> None:
        """Give the rings and the device locks back."""
        del timeout_ns
        self._heart.stop()
        if self._costs is not None:
            self._costs.stop()
        self._directory.close()
        self._locks.close()

    def turn(self) -> None:
        """One round: read everything that is new; tick and publish when they are due."""
        self._read_rings()
        self._read_collectors()
        now_ns = self._clock.monotonic_ns()
        self._board.beat(now_ns)
        if now_ns >= self._due["bind"]:
            self._due["bind"] = now_ns + NS_PER_SECOND // 4
            self._bind()
        if now_ns >= self._due["tick"]:
            self._facts.tick_lateness_ns = now_ns - self._due["tick"]
            self._due["tick"] = max(self._due["tick"] + self._tick_period_ns, now_ns)
            self.tick()
            self._due["publish"] = 0
        if now_ns >= self._due["heartbeat"]:
            self._due["heartbeat"] = now_ns + HEARTBEAT_NS
            self._heartbeat()
        if now_ns >= self._due["publish"]:
            self._due["publish"] = now_ns + PUBLISH_NS
            self.publish()
        if now_ns >= self._due["costs"]:
            self._due["costs"] = now_ns + COSTS_NS
            self._write_costs()

    def _last_turns(self) -> None:
        """A few more looks believe the last records; one more tick commits them."""
        for _ in range(LAST_LOOKS):
            # First: a look too soon after the one before it would not count.
            self._clock.wait(threading.Event(), POLL_NS)
            self._read_rings()
        self._read_collectors()
        self._bind()
        self.tick()
        self.publish()
        if self._facts.left_behind is not None:
            _LOG.error("%s", self._facts.left_behind)

    # -- what comes in ---------------------------------------------------------------------------
    def _read_rings(self) -> None:
        if self._settlement.unsaved_spans > MAX_UNSAVED_SPANS:
            self._drops["ledger_behind"] += 1
            return
        begun_ns = self._clock.monotonic_ns()
        self._poll = self._directory.poll()
        self._intake.take(self._poll, begun_ns)
        self._polls.append(begun_ns)

    def _read_collectors(self) -> None:
        for device in self._locks.take_changed():
            self._settlement.disown(device)
        for sampler in self._samplers:
            for batch in sampler.drain():
                if batch.devices:  # before the next tick: a ring may have waited for them
                    self._due["bind"] = 0
                now_ns = self._clock.monotonic_ns()
                take_batch(
                    batch,
                    self._seen,
                    self._settlement,
                    self._read,
                    source=sampler.name,
                    now_ns=now_ns,
                )

    def _resume(self) -> None:
        """Devices of the ledger are awaited where no other agent has taken them."""
        now_ns = self._time.now(self._clock)
        for device in self._settlement.metered.remembered:
            if self._locks.own(DeviceId(device)):
                self._settlement.resume(device, now_ns)

    def _read(self, info: DeviceInfo | None, reading: Reading) -> None:
        if info is None:
            self._drops["reading_of_unknown_device"] += 1
        elif self._locks.own(reading.device):
            self._settlement.read(info, reading)
        elif self._locks.is_taken(reading.device):
            self._settlement.disown(reading.device)

    def _users_of(self, device: MeteredDevice) -> list[int]:
        """Entities of the owners of processes that compute on a device without a ring."""
        known = {ring.state.pid for ring in self._intake.followed.values()}
        pids = self._seen.pids(device.info.device) or frozenset()
        owners = {self._processes.owner_of(pid) for pid in pids - known}
        return self._owners(owner for owner in owners if owner is not None)

    def _holders_of(self, device: MeteredDevice) -> list[int]:
        """Entities of the pods and jobs that a scheduler gave the device to."""
        now_ns = self._clock.monotonic_ns()
        return self._owners(self._seen.holders(device.info.device, now_ns))

    def _pod_of(self, device: str) -> Pod | None:
        """Whose cost a device's is on /metrics. A sidecar's target has the labels of its pod."""
        if self._locks.is_by_ring:
            return None
        return self._seen.pod_of(DeviceId(device), self._clock.monotonic_ns())

    def _owners(self, owners: Iterable[str]) -> list[int]:
        return [self._settlement.entity(EntityKey(owner=owner)) for owner in sorted(owners)]

    def _bind(self) -> None:
        self._binder.bind(self._intake.followed.values(), self._time.now(self._clock))
        for sampler in self._samplers:
            sampler.watch([ring.state.pid for ring in self._intake.followed.values()])

    # -- the tick --------------------------------------------------------------------------------
    def tick(self) -> TickOutcome | None:
        """Settle and commit; where the ledger cannot, everything waits for the next tick."""
        begun_ns = self._clock.monotonic_ns()
        moved = self._time.observe(self._clock)
        if moved is not None:
            self._settlement.wall_moved(*moved)
        finished = self._finished(begun_ns)
        safe_ns = self._intake.safe_ns()
        polled_ns = self._time.of(self._polls[0]) if len(self._polls) == LOOKS else 0
        if safe_ns is not None:
            polled_ns = min(polled_ns, safe_ns)
        facts = self._facts
        try:
            outcome = self._settlement.tick(self._time.of(begun_ns), polled_ns, self._ledger)
        except LedgerUnavailable as error:
            facts.ledger_failures += 1
            facts.ledger_waiting += 1
            facts.ledger_reason = str(error)
            if facts.ledger_waiting == 1:
                _LOG.warning("%s", error)
            return None
        if facts.ledger_waiting:
            _LOG.info("the ledger takes settlements again")
        facts.ledger_waiting, facts.ledger_reason = 0, None
        facts.ticks += 1
        facts.ledger_commits += 1
        facts.ledger_commit_ns += outcome.commit_ns
        facts.tick_ns += self._clock.monotonic_ns() - begun_ns
        residual = outcome.residual
        facts.residual_units += residual[0]
        facts.residual_mj += residual[1]
        self._restore_told()
        self._directory.reap(finished)
        self._intake.forget(finished)
        spent = None if self._spenders is None else self._spenders.take()
        if spent is not None:
            self._ended.replaced(self._folder.decide(spent))
        self._ended.look(begun_ns, self._live(), self._seen.pods(begun_ns) or ())
        return outcome

    def _restore_told(self) -> None:
        """Who told of which request lately: just now, everything that was read is in the ledger."""
        doors = self._intake.doors
        if doors.is_wanted:
            since_ns = self._time.now(self._clock) - RECENT_NS
            with contextlib.suppress(LedgerUnavailable), self._ledger.read() as connection:
                doors.restore(History(connection, self._agent_id).requests_since(since_ns))

    def _live(self) -> set[Who]:
        """The workloads and runs of processes that have a ring."""
        said = [ring.identity.said for ring in self._intake.followed.values() if not ring.finished]
        fold = self._folder
        runs = {Who(fold.workload(each.workload), fold.run(each.run)) for each in said}
        return runs | {Who(each.workload) for each in runs}

    def _finished(self, now_ns: int) -> list[RingId]:
        """Rings of dead processes that need not be looked at again.

        Until it is known which devices there are, an unbound one may still be found to use some.
        """
        finished = self._intake.finished()
        if self._seen.infos or now_ns - self._begun_ns > GIVE_UP_NS:
            return finished
        return [ring for ring in finished if self._intake.followed[ring].state.bindings]

    # -- what goes out ---------------------------------------------------------------------------
    def publish(self) -> None:
        """Put a new snapshot on the board."""
        for sampler in self._samplers:
            self._drops[f"collector_{sampler.name}"] = sampler.dropped
        self._board.publish(
            publish(
                self._settlement,
                self._intake,
                self._facts,
                time=self._time,
                clock=self._clock,
                infos=self._locks.of_this_agent(self._seen.infos),
                seen=self._seen,
                locks=self._locks,
                prices=self._prices,
                folder=self._folder,
                samplers=self._samplers,
                sample_period_ns=self._sample_period_ns,
                shipper=self._shipper,
                budgets=self._budgets,
                adjustments=self._adjustments,
                telemetry_gap_ns=self._settlement.telemetry_gap_ns,
                poll=self._poll,
                drops=self._drops,
                ended=self._ended,
                agent_pid=os.getpid(),
            )
        )

    def _write_costs(self) -> None:
        """Tell workloads what their tokens cost lately."""
        if self._costs is not None:
            followed = self._intake.followed.items()
            named = {str(ring): each.identity.workload for ring, each in followed}
            self._costs.write(
                self._facts.recent.cost_per_token(),
                self._prices.currency,
                {ring: workload for ring, workload in named.items() if workload is not None},
            )

    def _heartbeat(self) -> None:
        unbound = self._unbound.look(self._intake.followed, self._time.now(self._clock))
        unread = self._unread.look(self._directory.refused)
        self._facts.complain("heartbeat", self._heart.beat(unbound, unread))
        self._facts.complain("unbound", self._unbound.complaint)
        self._facts.complain("unread", self._unread.complaint)
        self._facts.complain("engines", self._binder.complaint)
