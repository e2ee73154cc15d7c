"""Every metric family, declared once.

Those of a collector, of the shipper, of latencies and of money stand in their own files, the rest
here. The
exporter emits nothing else, docs/metrics.md is made from it, and dashboards and alerts may
use no other name.

`{currency}` in a name stands for the ledger's currency in lower case: `apportion_cost_usd_total`.
"""

from __future__ import annotations

from typing import Final

from apportion.agent import latency, profile_watch, recent
from apportion.agent.metrics import money
from apportion.agent.metrics.money import settled
from apportion.agent.shipping import figures as shipping
from apportion.collectors import (
    dcgm_telemetry,
    engine_vocabulary,
    kmsg,
    kubernetes,
    nccl,
    network,
    nvml_families,
    otlp,
    pod_labels,
    scrape,
    sglang,
    system,
)
from apportion.core.family import Family, Kind

DEVICE: Final = ("device",)


def _device(name: str, unit: str, text: str, *, labels: tuple[str, ...] = ()) -> Family:
    kind: Kind = "counter" if name.endswith("_total") else "gauge"
    return Family(
        f"apportion_device_{name}", kind, unit, DEVICE + labels, text, "reading", simulated=True
    )


def _own(name: str, unit: str, labels: tuple[str, ...], text: str, source: str) -> Family:
    kind: Kind = "counter" if name.endswith("_total") else "gauge"
    return Family(f"apportion_{name}", kind, unit, labels, text, source)


COLLECTED: Final[tuple[Family, ...]] = (
    *dcgm_telemetry.FAMILIES,
    *network.FAMILIES,
    *system.FAMILIES,
    *nccl.FAMILIES,
    *kubernetes.FAMILIES,
    *pod_labels.FAMILIES,
    *scrape.FAMILIES,
    *engine_vocabulary.FAMILIES,
    *nvml_families.FAMILIES,
    *kmsg.FAMILIES,
    *otlp.FAMILIES,
    *sglang.FAMILIES,
    *profile_watch.FAMILIES,
)
"""The blocks of the collectors, one after the other."""

FAMILIES: Final = (
    # -- devices --------------------------------------------------------------------------
    _device(
        "info",
        "",
        "Facts of a device, always 1. owned: whether this agent meters it.",
        labels=("name", "index", "source", "owned", "driver_version"),
    ),
    _device(
        "up",
        "boolean",
        "Whether the device is read: 0 where it fails or has been silent for a telemetry gap.",
    ),
    _device(
        "failure",
        "",
        "Why the device cannot be read, always 1; /readyz says it in a sentence.",
        labels=("reason",),
    ),
    _device(
        "utilization_ratio",
        "ratio",
        "Share of the last sample period in which the device was active.",
    ),
    _device("memory_used_bytes", "bytes", "Memory in use."),
    _device("memory_size_bytes", "bytes", "Memory that the device has."),
    _device(
        "memory_utilization_ratio",
        "ratio",
        "Share of the last sample period in which memory was read or written.",
    ),
    _device("power_watts", "watts", "Power draw."),
    _device("power_limit_watts", "watts", "Power limit in force."),
    _device(
        "energy_joules_total",
        "joules",
        "Energy as its source counts it; energy_source says which.",
        labels=("energy_source",),
    ),
    _device("temperature_celsius", "celsius", "Temperature."),
    _device("clock_hertz", "hertz", "Clock frequency.", labels=("clock",)),
    _device("pcie_bytes_total", "bytes", "Bytes over PCIe.", labels=("direction",)),
    _device("nvlink_bytes_total", "bytes", "Bytes over NVLink, all links.", labels=("direction",)),
    _device(
        "peak_operations_per_second",
        "operations per second",
        "Dense arithmetic in the tensor cores at most, by NVIDIA's data sheet. Absent: not known.",
        labels=("precision",),
    ),
    _device(
        "peak_memory_bytes_per_second",
        "bytes per second",
        "What the memory can move at most, by NVIDIA's data sheet. Absent: not known.",
    ),
    _device(
        "mfu_ratio",
        "ratio",
        "Use of the arithmetic that the device has. tensor_active: the share of cycles in which "
        "tensor pipes ran, which real FLOPs utilisation is at most.",
        labels=("method",),
    ),
    _device(
        "mbu_ratio",
        "ratio",
        "Use of the memory bandwidth that the device has. dram_active: the share of cycles in "
        "which memory moved data.",
        labels=("method",),
    ),
    *COLLECTED,
    *money.FAMILIES,
    # -- workloads ------------------------------------------------------------------------
    settled(
        "requests_total",
        "requests",
        ("workload", "tenant", "model", "status"),
        "Requests that ended.",
    ),
    settled("steps_total", "steps", ("workload", "run", "status"), "Training steps that ended."),
    settled(
        "tokens_total",
        "tokens",
        ("workload", "tenant", "model", "token_type"),
        "Tokens of spans that ended. input includes cached_input.",
    ),
    *(
        settled(
            f"training_{name}_total",
            "operations",
            ("workload", "run"),
            f"{what} Of steps that ended well and have tokens, of trainers that declare their "
            "model's size, on devices whose dense 16-bit peak is known.",
        )
        for name, what in (
            ("flops", "Floating-point operations, by tokens and what the trainer declared."),
            ("possible_flops", "What the devices could have done in the time of these steps."),
        )
    ),
    *latency.FAMILIES,
    *recent.FAMILIES,
    # -- rings ----------------------------------------------------------------------------
    _own(
        "ring_records_total",
        "records",
        ("outcome",),
        "Records that rings took, each counted once: read, overwritten unread, never stored, "
        "not valid, or a door's word of requests that others had told of (merged).",
        "ring reader",
    ),
    _own(
        "ring_late_records_total",
        "records",
        (),
        "Accepted records that came after later ones.",
        "ring reader",
    ),
    _own(
        "engine_iterations_total",
        "iterations",
        ("outcome",),
        "Iterations of inference engines: in_time, late (told of when their time was settled) or "
        "missing (others after them came). Requests in missing ones are roofline-windows/1.",
        "settlement",
    ),
    _own(
        "servers",
        "servers",
        ("allocation_method",),
        "Workloads with requests, by what settlement knows at best of those that ended last: "
        "roofline-two-part/1 in exact mode, roofline-counts/1 with iteration details.",
        "settlement",
    ),
    _own("rings_attached", "rings", (), "Rings that are being read.", "ring reader"),
    _own("rings_unbound", "rings", (), "Rings whose devices are not known.", "binding"),
    _own(
        "rings_refused",
        "files",
        ("reason",),
        "Files in the ring directory that are refused at present.",
        "ring reader",
    ),
    _own(
        "unbound_spans_total",
        "spans",
        (),
        "Spans of rings whose devices were not known: kept without money.",
        "binding",
    ),
    _own("open_spans", "spans", ("workload",), "Spans that run now.", "ring reader"),
    # -- the agent itself -----------------------------------------------------------------
    _own("drops_total", "items", ("reason",), "What a bounded queue had no room for.", "pipeline"),
    _own(
        "label_values_folded",
        "values",
        ("label",),
        "Distinct label values that became `other`.",
        "metrics",
    ),
    _own(
        "series_refused_total",
        "amounts",
        (),
        "Times that an amount went to `other` because the counters had `labels.max_series`.",
        "metrics",
    ),
    _own(
        "series_ended_total",
        "series",
        ("reason",),
        "Series that ended. finished: of workloads and runs without a process, unchanged for an "
        "hour; their counters begin at 0 should they come back. replaced: of names whose place "
        "went to one that spends more. gone: of pods, devices and processes that their source "
        "tells nothing of any more.",
        "metrics",
    ),
    _own(
        "collector_success",
        "boolean",
        ("collector",),
        "Whether the last collection worked.",
        "collectors",
    ),
    _own(
        "collector_absent",
        "boolean",
        ("collector",),
        "Whether its source is not on this machine, and nobody has asked for it: no failure.",
        "collectors",
    ),
    _own(
        "collector_duration_seconds",
        "seconds",
        ("collector",),
        "How long the last collection took.",
        "collectors",
    ),
    _own(
        "collector_last_success_timestamp_seconds",
        "seconds",
        ("collector",),
        "When a collection last worked, as unix time.",
        "collectors",
    ),
    _own("ledger_up", "boolean", (), "Whether the ledger can be written.", "ledger"),
    _own("ledger_commits_total", "transactions", (), "Transactions committed.", "ledger"),
    _own("ledger_failures_total", "transactions", (), "Transactions that failed.", "ledger"),
    _own("ledger_commit_seconds_total", "seconds", (), "Time spent in commits.", "ledger"),
    _own(
        "ledger_waiting_ticks",
        "ticks",
        (),
        "Ticks that wait for the ledger to come back.",
        "ledger",
    ),
    *shipping.FAMILIES,
    _own("settlement_ticks_total", "ticks", (), "Settlements done.", "pipeline"),
    _own("settlement_seconds_total", "seconds", (), "Time spent in settlement.", "pipeline"),
    _own(
        "settlement_lateness_seconds",
        "seconds",
        (),
        "How long after its due time the last settlement began.",
        "pipeline",
    ),
    _own(
        "snapshot_timestamp_seconds",
        "seconds",
        (),
        "When the values shown here were taken, as unix time.",
        "pipeline",
    ),
    _own(
        "agent_cpu_seconds_total",
        "seconds",
        ("process",),
        "CPU time of the agent's own processes.",
        "procfs",
    ),
    _own(
        "agent_resident_memory_bytes",
        "bytes",
        ("process",),
        "Resident memory of the agent's own processes.",
        "procfs",
    ),
    _own(
        "agent_start_timestamp_seconds",
        "seconds",
        (),
        "When the agent started, as unix time. It changes with each restart.",
        "agent",
    ),
    _own("agent_degraded", "conditions", (), "What does not work as asked; see /readyz.", "agent"),
    _own(
        "undeclared_samples_total",
        "samples",
        (),
        "Samples that the catalogue does not declare, left out. Anything but 0 is a fault.",
        "metrics",
    ),
    _own("build_info", "", ("version",), "The agent's version, always 1.", "agent"),
)


def by_name() -> dict[str, Family]:
    """The families by their declared name (with `{currency}`)."""
    return {family.name: family for family in FAMILIES}
