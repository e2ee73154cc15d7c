"""What the settlement thread publishes after each tick, and what everything else may read.

One writer, many readers: a `Snapshot` is immutable, its numbers are plain integers in this
project's units, and its counters only rise while the process lives. Reading consumes nothing.
The writer folds label values (`metrics.labels`) before it adds to a counter, so a counter's keys
are bounded and never change their meaning.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple

from apportion.agent.latency import Latency, LatencyKey
from apportion.agent.process_usage import ProcessUsage
from apportion.collectors.collector import DeviceFailure
from apportion.collectors.observed import CollectorStatus
from apportion.core.category import Category, Phase, SpanStatus
from apportion.core.ids import DeviceId
from apportion.core.reading import DeviceInfo, Reading
from apportion.core.sample import Sample
from apportion.cost.budget import Spent
from apportion.cost.rate import Rate


@dataclass(frozen=True, slots=True)
class DeviceState:
    """One device. `reading` is None once it is too old to be shown as the present.

    `settled_unix_ns` is the watermark; `lag_ns` is how far it lies behind now. `unpriced_ns`
    counts settled time that had no rate. `power_limit_mw` is in `info`. `idle_power_mw` is what
    has been learnt of its power at rest, by `IdleState` label.
    `failure` is why it cannot be read, where it gave no reading since. It is `up` while its time
    is known: it does not fail, and its last reading is no longer ago than a telemetry gap.
    """

    info: DeviceInfo
    owned: bool
    reading: Reading | None = None
    rate: Rate | None = None
    settled_unix_ns: int | None = None
    lag_ns: int | None = None
    unpriced_ns: int = 0
    idle_power_mw: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    failure: DeviceFailure | None = None
    up: bool = False


@dataclass(frozen=True, slots=True)
class SpendKey:
    """To whom settled time goes. Empty text is nobody or not said; labels are folded already.

    `namespace` and `pod` are those of the pod that holds the device.
    """

    category: Category
    workload: str = ""
    run: str = ""
    model: str = ""
    tenant: str = ""
    namespace: str = ""
    pod: str = ""


@dataclass(frozen=True, slots=True)
class Spend:
    """Totals since the process started. None: no rate, or no energy source, ever."""

    device_ns: int
    units: int | None = None
    energy_mj: int | None = None


@dataclass(frozen=True, slots=True)
class PhaseKey:
    """A phase of a workload's spans, `Phase.NONE` being the rest of them."""

    workload: str
    phase: Phase


@dataclass(frozen=True, slots=True)
class RequestKey:
    """How requests ended."""

    workload: str
    tenant: str
    model: str
    status: SpanStatus


@dataclass(frozen=True, slots=True)
class StepKey:
    """How steps ended."""

    workload: str
    run: str
    status: SpanStatus


TOKEN_TYPES: Final = ("input", "cached_input", "output", "training")


@dataclass(frozen=True, slots=True)
class TokenKey:
    """Tokens of finished spans; `token_type` is one of `TOKEN_TYPES` (input holds cached ones)."""

    workload: str
    tenant: str
    model: str
    token_type: str


@dataclass(frozen=True, slots=True)
class MoveKey:
    """Cost that later lines moved inside an interval."""

    source: Category
    target: Category
    reason: str


@dataclass(frozen=True, slots=True)
class AdjustmentKey:
    """Cost that later lines changed because a price did: `change` is `raised` or `lowered`."""

    category: Category
    change: str
    reason: str


@dataclass(frozen=True, slots=True)
class LostKey:
    """Work of a run that came to nothing: what category it was in, and why it is lost."""

    workload: str
    run: str
    source: Category
    reason: str


@dataclass(frozen=True, slots=True)
class TrainingKey:
    """A run whose trainer says what its model takes."""

    workload: str
    run: str


class TrainingWork(NamedTuple):
    """Floating-point operations of steps, and what their devices could have done meanwhile."""

    flops: int = 0
    possible: int = 0

    def plus(self, other: TrainingWork) -> TrainingWork:
        """Both together."""
        return TrainingWork(self.flops + other.flops, self.possible + other.possible)


@dataclass(frozen=True, slots=True)
class RingCounts:
    """The rings. `late` records are among the `accepted` ones; the rest are disjoint.

    `refused` maps a reason to the files refused for it at the last poll.
    """

    accepted: int = 0
    late: int = 0
    lost: int = 0
    abandoned: int = 0
    merged: int = 0
    invalid: int = 0
    attached: int = 0
    unbound: int = 0
    unbound_spans: int = 0
    refused: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    open_spans: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """By workload."""
    iterations: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Of engines, by what became of them."""
    servers: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """By the method that their requests are settled by."""


@dataclass(frozen=True, slots=True)
class LedgerCounts:
    """The ledger's writer. `commit_ns` is all time spent in commits; `waiting` ticks wait."""

    up: bool = True
    commits: int = 0
    failures: int = 0
    commit_ns: int = 0
    waiting: int = 0
    reason: str | None = None
    """Why it is not up."""

    @property
    def complaint(self) -> str | None:
        """A sentence where it is not up."""
        if self.up:
            return None
        reason = self.reason or "no reason was given"
        return f"the ledger is unavailable, {self.waiting} ticks wait: {reason}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that /metrics shows, at one tick.

    The process began at `started_unix_ns`. `monotonic_ns` and `unix_ns` are the same instant.
    `simulated` is true where a simulator is behind the devices. `residual_units` and `residual_mj`
    are what settlement failed to place: they are 0, or there is a fault. `degraded` says in
    sentences what beside the ledger does not work as asked.
    """

    monotonic_ns: int
    unix_ns: int
    started_unix_ns: int | None = None
    currency: str | None = None
    simulated: bool = False
    devices: tuple[DeviceState, ...] = ()
    nameless: tuple[DeviceFailure, ...] = ()
    """Of devices that cannot be read and have never said their names."""
    samples: tuple[Sample, ...] = ()
    """Of sources that are not about devices."""
    spend: Mapping[SpendKey, Spend] = field(default_factory=lambda: MappingProxyType({}))
    names_pods: bool = False
    """Whether it is known which pods hold devices, so that a spend without one has none."""
    phases: Mapping[PhaseKey, Spend] = field(default_factory=lambda: MappingProxyType({}))
    requests: Mapping[RequestKey, int] = field(default_factory=lambda: MappingProxyType({}))
    steps: Mapping[StepKey, int] = field(default_factory=lambda: MappingProxyType({}))
    tokens: Mapping[TokenKey, int] = field(default_factory=lambda: MappingProxyType({}))
    training: Mapping[TrainingKey, TrainingWork] = field(
        default_factory=lambda: MappingProxyType({})
    )
    latencies: Mapping[LatencyKey, Latency] = field(default_factory=lambda: MappingProxyType({}))
    lost: Mapping[LostKey, Spend] = field(default_factory=lambda: MappingProxyType({}))
    moved_units: Mapping[MoveKey, int] = field(default_factory=lambda: MappingProxyType({}))
    adjusted_units: Mapping[AdjustmentKey, int] = field(
        default_factory=lambda: MappingProxyType({})
    )
    prices_applied_unix_ns: int | None = None
    """When prices were last applied to settled time; None: never, as far as is known."""
    budgets: tuple[Spent, ...] = ()
    residual_units: int = 0
    residual_mj: int = 0
    rings: RingCounts = field(default_factory=RingCounts)
    drops: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """By reason."""
    folded: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Distinct label values that became `other`, by label."""
    series_refused: int = 0
    """Times that an amount went to `other` because there were series enough."""
    series_ended: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """By reason."""
    collectors: tuple[CollectorStatus, ...] = ()
    ledger: LedgerCounts = field(default_factory=LedgerCounts)
    ticks: int = 0
    tick_ns: int = 0
    """All time spent in ticks."""
    tick_lateness_ns: int = 0
    """How late the last tick began."""
    processes: tuple[ProcessUsage, ...] = ()
    degraded: tuple[str, ...] = ()

    @property
    def complaints(self) -> tuple[str, ...]:
        """What does not work as asked, the ledger before all."""
        ledger = self.ledger.complaint
        return self.degraded if ledger is None else (ledger, *self.degraded)

    def unix_of(self, monotonic_ns: int) -> int:
        """The unix time of a host-monotonic instant, by this snapshot's pair of clocks."""
        return monotonic_ns - self.monotonic_ns + self.unix_ns

    def device(self, device: DeviceId) -> DeviceState | None:
        """The state of one device; None where it is not known."""
        return next((state for state in self.devices if state.info.device == device), None)


class SnapshotBoard:
    """Where the writer puts the latest snapshot and its sign of life, and readers find them.

    A reference is swapped, so readers never wait. The generation rises with each snapshot and
    is the key of what is made from it.
    """

    def __init__(self) -> None:
        self._published: tuple[int, Snapshot | None] = (0, None)
        self._beat_ns: int | None = None
        self._stopping = threading.Event()

    def publish(self, snapshot: Snapshot) -> None:
        """Replace the latest snapshot; a sign of life too. Only the settlement thread calls it."""
        generation, _ = self._published
        self._published = (generation + 1, snapshot)
        self._beat_ns = snapshot.monotonic_ns

    def beat(self, monotonic_ns: int) -> None:
        """Say that the settlement thread lives, between snapshots too."""
        self._beat_ns = monotonic_ns

    @property
    def latest(self) -> Snapshot | None:
        """The latest snapshot; None before the first."""
        return self._published[1]

    @property
    def published(self) -> tuple[int, Snapshot | None]:
        """The generation and its snapshot, as one consistent pair."""
        return self._published

    @property
    def last_beat_ns(self) -> int | None:
        """When the settlement thread last showed life (monotonic); None before it did."""
        return self._beat_ns

    def stop(self) -> None:
        """Say that the process is going down: it is not ready from now on."""
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        """Whether the process is going down."""
        return self._stopping.is_set()
