"""From the settlement's state to the immutable snapshot that /metrics shows."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from apportion.agent.pipeline.unread import of_source, unread
from apportion.agent.process_usage import UsageByPart
from apportion.agent.recent import Recent
from apportion.agent.snapshot import DeviceState, LedgerCounts, RingCounts, Snapshot
from apportion.collectors.collector import DeviceFailure, FailureKind
from apportion.core.category import SpanKind
from apportion.core.units import NS_PER_SECOND

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from apportion.agent.adjustment_watch import AdjustmentWatch
    from apportion.agent.budget_watch import BudgetWatch
    from apportion.agent.ingest.directory import DirectoryPoll
    from apportion.agent.metrics.labels import LabelFolder
    from apportion.agent.pipeline.ended_series import EndedSeries
    from apportion.agent.pipeline.intake import Intake
    from apportion.agent.pipeline.node_time import NodeTime
    from apportion.agent.pipeline.ownership import DeviceLocks
    from apportion.agent.pipeline.sampler import Sampler
    from apportion.agent.pipeline.seen import Seen
    from apportion.agent.pipeline.settlement import Settlement
    from apportion.agent.shipping.shipper import Shipper
    from apportion.core.clock import Clock
    from apportion.core.ids import DeviceId
    from apportion.core.reading import DeviceInfo
    from apportion.core.sample import Sample
    from apportion.cost.rate import PriceTable

STALE_NS: Final = 10 * NS_PER_SECOND
STALE_PERIODS: Final = 3
"""A reading older than both is not shown as the present."""


@dataclass(slots=True)
class Facts:
    """Counters of the settlement thread; `degraded` says what does not work as asked."""

    ticks: int = 0
    tick_ns: int = 0
    tick_lateness_ns: int = 0
    ledger_commits: int = 0
    ledger_commit_ns: int = 0
    ledger_failures: int = 0
    ledger_waiting: int = 0
    ledger_reason: str | None = None
    residual_units: int = 0
    residual_mj: int = 0
    usage: UsageByPart = field(default_factory=UsageByPart)
    recent: Recent = field(default_factory=Recent)
    started_unix_ns: int | None = None
    degraded: dict[str, str] = field(default_factory=dict[str, str])

    def complain(self, what: str, sentence: str | None) -> None:
        """Say in /readyz what does not work; None: it does."""
        if sentence is None:
            self.degraded.pop(what, None)
        else:
            self.degraded[what] = sentence

    @property
    def left_behind(self) -> str | None:
        """A sentence for who stops now, where the ledger has not taken everything."""
        if not self.ledger_waiting:
            return None
        return (
            f"what {self.ledger_waiting} ticks have read is not in the ledger "
            f"({self.ledger_reason}): the next start settles that time with the spans that rings "
            "still hold, and without these readings"
        )


def publish(
    settlement: Settlement,
    intake: Intake,
    facts: Facts,
    *,
    time: NodeTime,
    clock: Clock,
    infos: Mapping[DeviceId, DeviceInfo],
    seen: Seen,
    locks: DeviceLocks,
    prices: PriceTable,
    folder: LabelFolder,
    samplers: Sequence[Sampler],
    sample_period_ns: int,
    shipper: Shipper | None,
    budgets: BudgetWatch | None,
    adjustments: AdjustmentWatch | None,
    telemetry_gap_ns: int,
    poll: DirectoryPoll | None,
    drops: Mapping[str, int],
    ended: EndedSeries,
    agent_pid: int,
) -> Snapshot:
    """Everything as it is now. The first of `samplers` is the source of devices."""
    monotonic_ns, unix_ns = clock.monotonic_ns(), clock.realtime_ns()
    now_ns = time.of(monotonic_ns)
    totals = settlement.totals
    stale_ns = max(STALE_NS, STALE_PERIODS * sample_period_ns)
    since_ns = monotonic_ns - stale_ns
    source = samplers[0].status
    missing = {
        each.info.device: each
        for each in unread(
            settlement, seen, source, now_ns=now_ns, since_ns=since_ns, patience_ns=stale_ns
        )
    }
    infos = {**infos, **{device: each.info for device, each in missing.items()}}
    gpus = {device.partition("/")[0] for device in infos}
    devices: list[DeviceState] = []
    for device, info in sorted(infos.items(), key=lambda item: (item[1].source, item[1].index)):
        metered = settlement.devices.get(device)
        reading = seen.latest.get(device)
        age_ns = None if reading is None else monotonic_ns - reading.time_ns
        failure = seen.failure_of(info, since_ns)
        up = failure is None and age_ns is not None and age_ns <= telemetry_gap_ns
        if device in missing:
            failure = missing[device].failure
        elif not up and failure is None:
            failure = of_source(source, info, seen.failure_of(info, 0))
        devices.append(
            DeviceState(
                info,
                owned=metered is not None,
                reading=reading if age_ns is not None and age_ns <= stale_ns else None,
                rate=prices.rate_for(info.name, unix_ns),
                settled_unix_ns=None if metered is None else time.unix(metered.settled_ns),
                lag_ns=None if metered is None else max(0, now_ns - metered.settled_ns),
                unpriced_ns=0 if metered is None else totals.unpriced_ns[metered.key],
                idle_power_mw=MappingProxyType({} if metered is None else metered.idle.by_label),
                failure=failure,
                up=up,
            )
        )
    failing = seen.failures(since_ns)
    failing += (
        each.failure for each in missing.values() if each.failure.kind is FailureKind.VANISHED
    )
    nameless = () if locks.is_by_ring else _nameless(failing, infos.values())
    usages = [facts.usage.read("agent", agent_pid)]
    usages += [
        facts.usage.read(sampler.name, sampler.child_pid)
        for sampler in samplers
        if sampler.child_pid is not None
    ]
    collected = tuple(
        each
        for sampler in samplers
        for each in sampler.samples(monotonic_ns)
        if not locks.is_by_ring or _concerns(each, gpus)
    )
    ended.told(collected, devices)
    spend, lost = totals.spend, totals.lost
    recent = facts.recent.samples(
        monotonic_ns,
        spend=spend,
        lost=lost,
        tokens=totals.tokens,
        steps=totals.steps,
        training=totals.training,
        open_requests=_open_requests(intake, folder),
        collected=collected,
        devices=infos.values(),
    )
    return Snapshot(
        monotonic_ns=monotonic_ns,
        unix_ns=unix_ns,
        started_unix_ns=facts.started_unix_ns,
        currency=prices.currency,
        simulated=any(info.simulated for info in infos.values()),
        devices=tuple(devices),
        nameless=nameless,
        samples=(
            *collected,
            *recent,
            *(() if shipper is None else shipper.samples(unix_ns)),
        ),
        spend=spend,
        names_pods=not locks.is_by_ring and seen.pods(monotonic_ns) is not None,
        lost=lost,
        phases=totals.phases,
        requests=MappingProxyType(dict(totals.requests)),
        steps=MappingProxyType(dict(totals.steps)),
        tokens=MappingProxyType(dict(totals.tokens)),
        training=MappingProxyType(dict(totals.training)),
        latencies=totals.latencies.frozen(time.unix),
        budgets=() if budgets is None else budgets.latest,
        adjusted_units=MappingProxyType({}) if adjustments is None else adjustments.units,
        prices_applied_unix_ns=None if adjustments is None else adjustments.applied_unix_ns,
        moved_units=MappingProxyType(dict(totals.moved)),
        residual_units=facts.residual_units,
        residual_mj=facts.residual_mj,
        rings=_ring_counts(intake, folder, poll),
        drops=MappingProxyType({reason: count for reason, count in drops.items() if count}),
        folded=MappingProxyType(folder.folded),
        series_refused=folder.budget.refused,
        series_ended=MappingProxyType(dict(ended.counts)),
        collectors=tuple(sampler.status for sampler in samplers),
        ledger=LedgerCounts(
            up=facts.ledger_waiting == 0,
            commits=facts.ledger_commits,
            failures=facts.ledger_failures,
            commit_ns=facts.ledger_commit_ns,
            waiting=facts.ledger_waiting,
            reason=facts.ledger_reason,
        ),
        ticks=facts.ticks,
        tick_ns=facts.tick_ns,
        tick_lateness_ns=facts.tick_lateness_ns,
        processes=tuple(usage for usage in usages if usage is not None),
        degraded=(
            *_degraded(facts, infos, locks, samplers, poll, prices, unix_ns),
            *_failing(failing, locks, infos),
            *(() if shipper is None or shipper.complaint is None else [shipper.complaint]),
            *(() if budgets is None or budgets.complaint is None else [budgets.complaint]),
        ),
    )


def _concerns(sample: Sample, gpus: Collection[str]) -> bool:
    """Is it of no device, or of one that is shown?"""
    device = dict(sample.labels).get("device")
    return device is None or device.partition("/")[0] in gpus


def _nameless(
    failures: Iterable[DeviceFailure], infos: Collection[DeviceInfo]
) -> tuple[DeviceFailure, ...]:
    """Those of devices that neither a source nor the ledger has a name for."""
    return tuple(
        failure
        for failure in sorted(failures, key=lambda each: each.index)
        if failure.device is None and not any(map(failure.concerns, infos))
    )


def _failing(
    failures: Iterable[DeviceFailure], locks: DeviceLocks, infos: Mapping[DeviceId, DeviceInfo]
) -> list[str]:
    sentences: set[str] = set()
    for failure in failures:
        at_place = (device for device, info in infos.items() if failure.concerns(info))
        device = failure.device or next(at_place, None)
        if not locks.is_by_ring or device in infos:
            name = device or f"at index {failure.index}"
            sentences.add(f"device {name} cannot be read: {failure.reason}")
    return sorted(sentences)


def _open_requests(intake: Intake, folder: LabelFolder) -> Counter[tuple[str, str]]:
    """Requests that run now, by workload and model."""
    entities = intake.settlement.registry.entities
    found: Counter[tuple[str, str]] = Counter()
    for followed in intake.followed.values():
        for root in followed.state.open.values():
            if root.kind is SpanKind.REQUEST:
                who = entities.value(root.entity)
                found[folder.workload(who.workload), folder.model(who.model)] += 1
    return found


def _servers(settlement: Settlement) -> dict[str, int]:
    living = [ring for ring in settlement.rings.values() if ring.ended_ns is None]
    return settlement.iterations.servers(living)


def _ring_counts(intake: Intake, folder: LabelFolder, poll: DirectoryPoll | None) -> RingCounts:
    counters = intake.counters
    open_spans: Counter[str] = Counter()
    unbound = 0
    for followed in intake.followed.values():
        state = followed.state
        open_spans[folder.workload(followed.identity.said.workload)] += len(state.open)
        if followed.is_unbound:
            unbound += 1
    refused: Counter[str] = Counter()
    if poll is not None:
        for reason, count in poll.refused_total.items():
            refused[reason.value] += count
    return RingCounts(
        accepted=counters.accepted,
        late=counters.late,
        lost=counters.lost,
        abandoned=counters.abandoned,
        merged=counters.merged,
        invalid=counters.invalid,
        attached=len(intake.followed),
        unbound=unbound,
        unbound_spans=intake.settlement.totals.unbound_spans,
        refused=MappingProxyType(dict(refused)),
        open_spans=MappingProxyType(dict(open_spans)),
        iterations=MappingProxyType(asdict(intake.settlement.iterations.counters)),
        servers=MappingProxyType(_servers(intake.settlement)),
    )


def _degraded(
    facts: Facts,
    infos: Mapping[DeviceId, DeviceInfo],
    locks: DeviceLocks,
    samplers: Sequence[Sampler],
    poll: DirectoryPoll | None,
    prices: PriceTable,
    unix_ns: int,
) -> list[str]:
    sentences = list(facts.degraded.values())
    if poll is not None and poll.reason:
        sentences.append(f"the ring directory: {poll.reason}")
    sentences += [
        f"collector {sampler.name}: {sampler.status.error}"
        for sampler in samplers
        if sampler.status.error is not None and not sampler.status.absent
    ]
    sentences += [
        f"device {device} is not metered here: {reason}"
        for device, reason in sorted(locks.reason.items())
        if device in infos
    ]
    if locks.waits_for_rings:
        sentences.append("no ring of this pod names a device yet, so none is metered (mode: pod)")
    names = {info.name for info in infos.values() if prices.rate_for(info.name, unix_ns) is None}
    sentences += [f"no rate for {name!r}: quantities without amount" for name in sorted(names)]
    return sentences
