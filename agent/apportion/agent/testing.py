"""Doubles for tests of what reads the agent: a snapshot that has a value in every family."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import date, timezone
from fractions import Fraction
from types import MappingProxyType
from typing import Final

from apportion.agent.latency import BOUNDS_NS, Example, Latency, LatencyKey
from apportion.agent.metrics.catalogue import COLLECTED
from apportion.agent.process_usage import ProcessUsage
from apportion.agent.recent import FAMILIES as RECENT
from apportion.agent.shipping.figures import FAMILIES as SHIPPING
from apportion.agent.snapshot import (
    AdjustmentKey,
    DeviceState,
    LedgerCounts,
    LostKey,
    MoveKey,
    PhaseKey,
    RequestKey,
    RingCounts,
    Snapshot,
    Spend,
    SpendKey,
    StepKey,
    TokenKey,
    TrainingKey,
    TrainingWork,
)
from apportion.collectors.collector import DeviceFailure, FailureKind
from apportion.collectors.observed import CollectorStatus
from apportion.core.category import Category, Phase, SpanStatus
from apportion.core.family import Family
from apportion.core.ids import DeviceId
from apportion.core.reading import DeviceInfo, Reading
from apportion.core.sample import Sample
from apportion.core.units import (
    NS_PER_SECOND,
    Bytes,
    Millijoules,
    Milliwatts,
    MonotonicNs,
    Nanoseconds,
)
from apportion.cost.budget import Budget, Spent
from apportion.cost.rate import Rate

GPU: Final = DeviceId("GPU-00000000-0000-0000-0000-000000000001")
UNPRICED_GPU: Final = DeviceId("GPU-00000000-0000-0000-0000-000000000002")
MONOTONIC_NS: Final = 5_000 * NS_PER_SECOND
UNIX_NS: Final = 1_780_000_000 * NS_PER_SECOND


def full_snapshot(*, simulated: bool = False, scale: int = 1) -> Snapshot:
    """Two devices, a server and a trainer. Counters are multiplied by `scale` (>= 1)."""
    return Snapshot(
        monotonic_ns=MONOTONIC_NS,
        unix_ns=UNIX_NS,
        started_unix_ns=UNIX_NS - 600 * NS_PER_SECOND,
        currency="USD",
        simulated=simulated,
        devices=_devices(simulated=simulated, scale=scale),
        samples=samples_of(
            (each for each in (*COLLECTED, *SHIPPING, *RECENT) if not is_of_device(each)), scale
        ),
        spend=MappingProxyType(
            {
                SpendKey(Category.DIRECT, "llm", model="llama-3.1-8b", tenant="search"): Spend(
                    3_600 * NS_PER_SECOND * scale, 2_400_000_000_001 * scale, 2_520_000_123 * scale
                ),
                SpendKey(
                    Category.BETWEEN_STEPS, "pretrain", run="run-1", namespace="ml", pod="train-0"
                ): Spend(NS_PER_SECOND * scale, 666_666_666 * scale, 250_000 * scale),
                SpendKey(Category.UNALLOCATED): Spend(NS_PER_SECOND * scale),
            }
        ),
        phases=MappingProxyType(
            {
                PhaseKey("llm", Phase.PREFILL): Spend(
                    NS_PER_SECOND * scale, 5 * 10**11 * scale, 1_000 * scale
                ),
                PhaseKey("llm", Phase.NONE): Spend(NS_PER_SECOND * scale, None, None),
            }
        ),
        requests=MappingProxyType(
            {RequestKey("llm", "search", "llama-3.1-8b", SpanStatus.OK): 12 * scale}
        ),
        steps=MappingProxyType({StepKey("pretrain", "run-1", SpanStatus.OK): 7 * scale}),
        tokens=MappingProxyType(
            {
                TokenKey("llm", "search", "llama-3.1-8b", "input"): 6_144 * scale,
                TokenKey("pretrain", "", "", "training"): 57_344 * scale,
            }
        ),
        training=MappingProxyType(
            {TrainingKey("pretrain", "run-1"): TrainingWork(4 * 10**14 * scale, 10**15 * scale)}
        ),
        latencies=MappingProxyType(
            {
                LatencyKey("phase_seconds", "llm", phase="prefill"): _latency(scale),
                LatencyKey("step_seconds", "pretrain", run="run-1"): _latency(scale),
                **{
                    LatencyKey(name, "llm", model="llama-3.1-8b"): _latency(scale)
                    for name in (
                        *("request_seconds", "request_queue_seconds"),
                        *("time_to_first_token_seconds", "inter_token_seconds"),
                    )
                },
            }
        ),
        budgets=(
            Spent(
                Budget("search", 5_000 * 10**12, "month", timezone.utc, {}),
                UNIX_NS - 10 * 86_400 * NS_PER_SECOND,
                UNIX_NS + 20 * 86_400 * NS_PER_SECOND,
                1_250 * 10**12,
            ),
        ),
        lost=MappingProxyType(
            {
                LostKey("pretrain", "run-1", Category.DIRECT, "rolled_back"): Spend(
                    NS_PER_SECOND * scale, 500 * scale, 40 * scale
                )
            }
        ),
        moved_units=MappingProxyType(
            {MoveKey(Category.UNATTRIBUTED, Category.DIRECT, "late_record"): 1_500 * scale}
        ),
        adjusted_units=MappingProxyType(
            {AdjustmentKey(Category.DIRECT, "raised", "new_price"): 12 * 10**11 * scale}
        ),
        prices_applied_unix_ns=UNIX_NS - 60 * NS_PER_SECOND,
        rings=RingCounts(
            accepted=19 * scale,
            late=scale,
            lost=2 * scale,
            abandoned=scale,
            invalid=scale,
            attached=2,
            unbound=1,
            unbound_spans=3 * scale,
            refused=MappingProxyType({"symlink": 1}),
            open_spans=MappingProxyType({"llm": 4}),
            iterations=MappingProxyType({"in_time": 90, "late": 1, "missing": 2}),
            servers=MappingProxyType({"roofline-counts/1": 1, "roofline-windows/1": 0}),
        ),
        drops=MappingProxyType({"readings_queue_full": scale}),
        series_refused=scale,
        series_ended=MappingProxyType({"finished": 21 * scale, "gone": 4 * scale}),
        folded=MappingProxyType({"tenant": 2}),
        collectors=(
            CollectorStatus(
                "nvml",
                success=True,
                duration_ns=Nanoseconds(400_000),
                last_success_ns=MonotonicNs(MONOTONIC_NS - NS_PER_SECOND),
            ),
            CollectorStatus("host", error="procfs is not readable", consecutive_failures=3),
        ),
        ledger=LedgerCounts(commits=9 * scale, failures=scale, commit_ns=50_000_000 * scale),
        ticks=9 * scale,
        tick_ns=90_000_000 * scale,
        tick_lateness_ns=1_000_000,
        processes=(
            ProcessUsage("agent", 1_500_000_000 * scale, 90 << 20),
            ProcessUsage("nvml", 300_000_000 * scale, 25 << 20),
        ),
        degraded=("collector host failed 3 times: procfs is not readable",),
    )


def is_of_device(family: Family) -> bool:
    """Does a reading carry its samples, and the exporter add the device?"""
    return "device" in family.labels


def samples_of(families: Iterable[Family], scale: int = 1) -> tuple[Sample, ...]:
    """A sample of each family, with all of its labels but the device; three of a histogram."""
    return tuple(
        Sample(
            name.removeprefix("apportion_"),
            scale,
            tuple(
                (label, "+Inf" if label == "le" else label) for label in labels if label != "device"
            ),
        )
        for family in families
        for name, labels in family.sample_labels.items()
    )


def _latency(scale: int) -> Latency:
    """Three spans in the second bucket, with an example, and one beyond the last bound."""
    rest = len(BOUNDS_NS) - 2
    example = Example(7_000_000, UNIX_NS, "4bf92f3577b34da6a3ce929d0e0e4736", "request-1")
    return Latency(
        (0, 3 * scale, *[0] * rest, scale),
        (21_000_000 + 3_600 * NS_PER_SECOND) * scale,
        (None, example, *[None] * (rest + 1)),
    )


def _devices(*, simulated: bool, scale: int) -> tuple[DeviceState, ...]:
    info = DeviceInfo(
        GPU,
        "NVIDIA H100 80GB HBM3",
        0,
        "nvml",
        simulated=simulated,
        driver_version="580.00",
        memory_total_bytes=Bytes(80 << 30),
        power_limit_mw=Milliwatts(700_000),
    )
    reading = Reading(
        GPU,
        MonotonicNs(MONOTONIC_NS - NS_PER_SECOND),
        energy_mj=Millijoules(123_456_789 * scale),
        energy_source="energy_counter",
        power_mw=Milliwatts(512_345),
        utilization_ratio=0.87,
        activity_source="nvml_utilization",
        memory_used_bytes=Bytes(60 << 30),
        memory_total_bytes=Bytes(80 << 30),
        memory_utilization_ratio=0.4,
        temperature_celsius=61.0,
        sm_clock_hz=1_980_000_000,
        memory_clock_hz=2_619_000_000,
        pcie_tx_bytes=Bytes(1_000 * scale),
        pcie_rx_bytes=Bytes(2_000 * scale),
        nvlink_tx_bytes=Bytes(3_000 * scale),
        nvlink_rx_bytes=Bytes(4_000 * scale),
        samples=(
            *samples_of(filter(is_of_device, COLLECTED), scale),
            Sample("device_pipe_active_ratio", 0.46, (("pipe", "tensor"),)),
        ),
    )
    rate = Rate(
        info.name,
        Fraction(2_400_000_000_000),
        "2.40",
        "USD",
        "gpu",
        "list-estimate",
        "a test",
        date(2026, 5, 1),
    )
    priced = DeviceState(
        info,
        owned=True,
        reading=reading,
        rate=rate,
        settled_unix_ns=UNIX_NS - 2 * NS_PER_SECOND,
        lag_ns=2 * NS_PER_SECOND,
        idle_power_mw={"empty": 43_100, "loaded": 71_200},
        up=True,
    )
    unpriced = DeviceState(
        replace(info, device=UNPRICED_GPU, index=1, name="NVIDIA Unknown", power_limit_mw=None),
        owned=True,
        settled_unix_ns=UNIX_NS - 2 * NS_PER_SECOND,
        lag_ns=2 * NS_PER_SECOND,
        unpriced_ns=NS_PER_SECOND * scale,
        failure=DeviceFailure(UNPRICED_GPU, 1, "NVML error 15: GPU is lost", FailureKind.LOST),
    )
    return (priced, unpriced)
