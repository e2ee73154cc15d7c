"""From a snapshot to prometheus-client's metrics: only what the catalogue declares.

Values become floats here and nowhere earlier. A value that is None gives no sample. An empty
label is left out, which Prometheus takes for the same thing.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, time, timezone
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import Exemplar, Metric

from apportion.agent.latency import BOUNDS_NS, REST, Example, Latency, LatencyKey
from apportion.agent.metrics.emission import Emission, UndeclaredSampleError
from apportion.agent.snapshot import DeviceState, Snapshot, SnapshotBoard, Spend
from apportion.core.category import Phase
from apportion.core.device_facts import DeviceFacts
from apportion.core.reading import DeviceInfo, Reading
from apportion.core.units import NS_PER_SECOND, UNITS_PER_CURRENCY, joules, seconds

_LOG: Final = logging.getLogger(__name__)


_UTILISATIONS: Final = (
    ("device_mfu_ratio", "tensor_active", ("device_pipe_active_ratio", (("pipe", "tensor"),))),
    ("device_mbu_ratio", "dram_active", ("device_dram_active_ratio", ())),
)
"""What a reading's own samples say of them: family, method, and the sample."""
_POD: Final = ("namespace", "pod")


class Exposition:
    """A custom collector over the latest snapshot, in a registry of its own.

    With `strict` an undeclared sample raises; otherwise it is left out, counted and logged once.
    """

    def __init__(self, board: SnapshotBoard, version: str, *, strict: bool = False) -> None:
        self._board = board
        self._version = version
        self._strict = strict
        self._undeclared = 0
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """The families that have samples now, in the catalogue's order.

        Raises:
            UndeclaredSampleError: (strict) a sample is not declared.
        """
        snapshot = self._board.latest
        emission = Emission(snapshot.currency if snapshot is not None else None)
        emission.put("build_info", 1, {"version": self._version})
        if snapshot is not None:
            emit(snapshot, emission)
        if emission.undeclared:
            if self._strict:
                raise UndeclaredSampleError(emission.undeclared[0])
            if not self._undeclared:
                _LOG.error("a sample was left out: %s", emission.undeclared[0])
            self._undeclared += len(emission.undeclared)
        emission.put("undeclared_samples_total", self._undeclared)
        yield from emission.metrics()


def emit(snapshot: Snapshot, to: Emission) -> None:
    """Every sample of a snapshot."""
    for device in snapshot.devices:
        _device(device, to)
    for failure in snapshot.nameless:
        place = {"device": f"index:{failure.index}"}
        to.put("device_up", 0, place, simulated=snapshot.simulated)
        why = {**place, "reason": failure.kind.value}
        to.put("device_failure", 1, why, simulated=snapshot.simulated)
    for sample in snapshot.samples:
        labels = dict(sample.labels)
        to.put(sample.name, sample.value, labels, simulated=snapshot.simulated)
    _settled(snapshot, to)
    _workloads(snapshot, to)
    _rings(snapshot, to)
    _agent(snapshot, to)


def _device(state: DeviceState, to: Emission) -> None:
    info = state.info
    facts = {
        "device": info.device,
        "name": info.name,
        "index": str(info.index),
        "source": info.source,
        "owned": "true" if state.owned else "false",
        "driver_version": info.driver_version or "",
    }
    labels = {"device": info.device}
    simulated = info.simulated
    to.put("device_info", 1, facts, simulated=simulated)
    to.put("device_up", int(state.up), labels, simulated=simulated)
    if state.failure is not None:
        why = {**labels, "reason": state.failure.kind.value}
        to.put("device_failure", 1, why, simulated=simulated)
    to.put("device_power_limit_watts", _milli(info.power_limit_mw), labels, simulated=simulated)
    if state.reading is not None:
        _reading(state.reading, to, simulated=simulated)
    _peaks(info, to)
    rate = state.rate
    if rate is not None:
        per_hour = float(rate.units_per_hour / UNITS_PER_CURRENCY)
        terms = {**labels, "covers": rate.covers, "basis": rate.basis}
        to.put("device_rate_{currency}_per_hour", per_hour, terms, simulated=simulated)
        as_of = datetime.combine(rate.as_of, time(), timezone.utc).timestamp()
        to.put("price_as_of_timestamp_seconds", as_of, labels, simulated=simulated)
    if state.owned:
        unpriced = seconds(state.unpriced_ns)
        to.put("device_unpriced_seconds_total", unpriced, labels, simulated=simulated)
        until = _seconds(state.settled_unix_ns)
        to.put("settled_until_timestamp_seconds", until, labels, simulated=simulated)
        to.put("settlement_lag_seconds", _seconds(state.lag_ns), labels, simulated=simulated)
        for name, power_mw in state.idle_power_mw.items():
            state_of = {**labels, "state": name}
            to.put("device_idle_power_watts", _milli(power_mw), state_of, simulated=simulated)


def _peaks(info: DeviceInfo, to: Emission) -> None:
    """What it can do at most, by NVIDIA's data sheets."""
    facts = DeviceFacts.named(info.name)
    if facts is None:
        return
    device, simulated = {"device": info.device}, info.simulated
    to.put("device_peak_memory_bytes_per_second", facts.bytes_per_s, device, simulated=simulated)
    for precision, peak in (("16bit", facts.flop_per_s), ("8bit", facts.flop_per_s_8bit)):
        terms = {**device, "precision": precision}
        to.put("device_peak_operations_per_second", peak, terms, simulated=simulated)


def _reading(reading: Reading, to: Emission, *, simulated: bool) -> None:
    device = {"device": reading.device}
    for name, value in (
        ("utilization_ratio", reading.utilization_ratio),
        ("memory_used_bytes", reading.memory_used_bytes),
        ("memory_size_bytes", reading.memory_total_bytes),
        ("memory_utilization_ratio", reading.memory_utilization_ratio),
        ("power_watts", _milli(reading.power_mw)),
        ("temperature_celsius", reading.temperature_celsius),
    ):
        to.put(f"device_{name}", value, device, simulated=simulated)
    to.put(
        "device_energy_joules_total",
        _milli(reading.energy_mj),
        {**device, "energy_source": reading.energy_source or ""},
        simulated=simulated,
    )
    for clock, hertz in (("sm", reading.sm_clock_hz), ("memory", reading.memory_clock_hz)):
        to.put("device_clock_hertz", hertz, {**device, "clock": clock}, simulated=simulated)
    for name, direction, count in (
        ("pcie", "transmit", reading.pcie_tx_bytes),
        ("pcie", "receive", reading.pcie_rx_bytes),
        ("nvlink", "transmit", reading.nvlink_tx_bytes),
        ("nvlink", "receive", reading.nvlink_rx_bytes),
    ):
        labels = {**device, "direction": direction}
        to.put(f"device_{name}_bytes_total", count, labels, simulated=simulated)
    for sample in reading.samples:
        for family, method, source in _UTILISATIONS:
            if (sample.name, sample.labels) == source:
                terms = {**device, "method": method}
                to.put(family, sample.value, terms, simulated=simulated)
        to.put(sample.name, sample.value, {**device, **dict(sample.labels)}, simulated=simulated)


def _settled(snapshot: Snapshot, to: Emission) -> None:
    simulated = snapshot.simulated
    # Empty: with `honor_labels` the pod of the target, which is the agent's, would be put there.
    blank = _POD if snapshot.names_pods else ()
    for key, spend in snapshot.spend.items():
        labels = {
            "workload": key.workload,
            "run": key.run,
            "model": key.model,
            "tenant": key.tenant,
            "category": key.category.label,
            "namespace": key.namespace,
            "pod": key.pod,
        }
        _spend("", spend, labels, to, simulated=simulated, blank=blank)
    for phase, spend in snapshot.phases.items():
        name = phase.phase.label if phase.phase is not Phase.NONE else REST
        labels = {"workload": phase.workload, "phase": name}
        _spend("phase_", spend, labels, to, simulated=simulated)
    for loss, spend in snapshot.lost.items():
        labels = {
            "workload": loss.workload,
            "run": loss.run,
            "from": loss.source.label,
            "reason": loss.reason,
        }
        _spend("lost_", spend, labels, to, simulated=simulated)
    for move, units in snapshot.moved_units.items():
        labels = {"from": move.source.label, "to": move.target.label, "reason": move.reason}
        to.put("moved_cost_{currency}_total", _money(units), labels, simulated=simulated)
    for adjustment, units in snapshot.adjusted_units.items():
        labels = {
            "category": adjustment.category.label,
            "change": adjustment.change,
            "reason": adjustment.reason,
        }
        to.put("adjusted_cost_{currency}_total", _money(units), labels, simulated=simulated)
    applied = _seconds(snapshot.prices_applied_unix_ns)
    to.put("prices_applied_timestamp_seconds", applied, simulated=simulated)
    for spent in snapshot.budgets:
        labels = {"budget": spent.budget.name, "period": spent.budget.every}
        for name, value in (
            ("amount_{currency}", _money(spent.budget.amount_units)),
            ("spent_{currency}", _money(spent.units)),
            ("period_start_timestamp_seconds", seconds(spent.start_unix_ns)),
            ("period_end_timestamp_seconds", seconds(spent.end_unix_ns)),
        ):
            to.put(f"budget_{name}", value, labels, simulated=simulated)
    to.put("conservation_residual_units", snapshot.residual_units, simulated=simulated)
    to.put("conservation_residual_joules", joules(snapshot.residual_mj), simulated=simulated)


def _spend(
    prefix: str,
    spend: Spend,
    labels: Mapping[str, str],
    to: Emission,
    *,
    simulated: bool,
    blank: Collection[str] = (),
) -> None:
    for name, value in (
        ("cost_{currency}_total", _money(spend.units)),
        ("energy_joules_total", _milli(spend.energy_mj)),
        ("device_seconds_total", seconds(spend.device_ns)),
    ):
        to.put(prefix + name, value, labels, simulated=simulated, blank=blank)


def _workloads(snapshot: Snapshot, to: Emission) -> None:
    simulated = snapshot.simulated
    for request, count in snapshot.requests.items():
        labels = {
            "workload": request.workload,
            "tenant": request.tenant,
            "model": request.model,
            "status": request.status.label,
        }
        to.put("requests_total", count, labels, simulated=simulated)
    for step, count in snapshot.steps.items():
        labels = {"workload": step.workload, "run": step.run, "status": step.status.label}
        to.put("steps_total", count, labels, simulated=simulated)
    for token, count in snapshot.tokens.items():
        labels = {
            "workload": token.workload,
            "tenant": token.tenant,
            "model": token.model,
            "token_type": token.token_type,
        }
        to.put("tokens_total", count, labels, simulated=simulated)
    for run, work in snapshot.training.items():
        labels = {"workload": run.workload, "run": run.run}
        to.put("training_flops_total", work.flops, labels, simulated=simulated)
        to.put("training_possible_flops_total", work.possible, labels, simulated=simulated)
    for key, latency in snapshot.latencies.items():
        _latency(key, latency, to, simulated=simulated)


def _latency(key: LatencyKey, latency: Latency, to: Emission, *, simulated: bool) -> None:
    labels = {
        "workload": key.workload,
        "run": key.run,
        "model": key.model,
        "phase": key.phase,
    }
    labels = {label: text for label, text in labels.items() if text}
    count = 0
    bounds = (*(repr(seconds(bound)) for bound in BOUNDS_NS), "+Inf")
    for bound, own, example in zip(bounds, latency.counts, latency.examples, strict=True):
        count += own
        to.put(
            f"{key.name}_bucket",
            count,
            {**labels, "le": bound},
            simulated=simulated,
            exemplar=None if example is None else _exemplar(example),
        )
    to.put(f"{key.name}_sum", seconds(latency.sum_ns), labels, simulated=simulated)
    to.put(f"{key.name}_count", count, labels, simulated=simulated)


def _exemplar(example: Example) -> Exemplar:
    ids = {"trace_id": example.trace_id, "request_id": example.request_id}
    labels = {name: text for name, text in ids.items() if text is not None}
    return Exemplar(labels, seconds(example.duration_ns), example.unix_ns / NS_PER_SECOND)


def _rings(snapshot: Snapshot, to: Emission) -> None:
    rings = snapshot.rings
    for outcome, count in (
        ("accepted", rings.accepted),
        ("lost", rings.lost),
        ("abandoned", rings.abandoned),
        ("merged", rings.merged),
        ("invalid", rings.invalid),
    ):
        to.put("ring_records_total", count, {"outcome": outcome})
    to.put("ring_late_records_total", rings.late)
    for outcome, count in rings.iterations.items():
        to.put("engine_iterations_total", count, {"outcome": outcome})
    for method, count in rings.servers.items():
        to.put("servers", count, {"allocation_method": method})
    to.put("rings_attached", rings.attached)
    to.put("rings_unbound", rings.unbound)
    to.put("unbound_spans_total", rings.unbound_spans)
    for reason, count in rings.refused.items():
        to.put("rings_refused", count, {"reason": reason})
    for workload, count in rings.open_spans.items():
        to.put("open_spans", count, {"workload": workload})


def _agent(snapshot: Snapshot, to: Emission) -> None:
    for reason, count in snapshot.drops.items():
        to.put("drops_total", count, {"reason": reason})
    for label, count in snapshot.folded.items():
        to.put("label_values_folded", count, {"label": label})
    to.put("series_refused_total", snapshot.series_refused)
    for reason, count in snapshot.series_ended.items():
        to.put("series_ended_total", count, {"reason": reason})
    for status in snapshot.collectors:
        labels = {"collector": status.name}
        to.put("collector_success", int(status.success), labels)
        to.put("collector_absent", int(status.absent), labels)
        to.put("collector_duration_seconds", seconds(status.duration_ns), labels)
        if status.last_success_ns is not None:
            last = seconds(snapshot.unix_of(status.last_success_ns))
            to.put("collector_last_success_timestamp_seconds", last, labels)
    ledger = snapshot.ledger
    to.put("ledger_up", int(ledger.up))
    to.put("ledger_commits_total", ledger.commits)
    to.put("ledger_failures_total", ledger.failures)
    to.put("ledger_commit_seconds_total", seconds(ledger.commit_ns))
    to.put("ledger_waiting_ticks", ledger.waiting)
    to.put("settlement_ticks_total", snapshot.ticks)
    to.put("settlement_seconds_total", seconds(snapshot.tick_ns))
    to.put("settlement_lateness_seconds", seconds(snapshot.tick_lateness_ns))
    to.put("snapshot_timestamp_seconds", snapshot.unix_ns / NS_PER_SECOND)
    for process in snapshot.processes:
        labels = {"process": process.name}
        to.put("agent_cpu_seconds_total", seconds(process.cpu_ns), labels)
        to.put("agent_resident_memory_bytes", process.resident_bytes, labels)
    to.put("agent_start_timestamp_seconds", _seconds(snapshot.started_unix_ns))
    to.put("agent_degraded", len(snapshot.complaints))


def _money(units: int | None) -> float | None:
    return None if units is None else units / UNITS_PER_CURRENCY


def _milli(thousandths: int | None) -> float | None:
    return None if thousandths is None else thousandths / 1_000


def _seconds(duration_ns: int | None) -> float | None:
    return None if duration_ns is None else seconds(duration_ns)
