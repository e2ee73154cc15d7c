"""One declared metric family, and how many values each label can have."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]
PARTS: Final = ("_bucket", "_sum", "_count")
"""What the samples of a histogram are called; those of `_bucket` have the label `le`."""

BOUNDS: Final = {
    "device": "devices of the host",
    "name": "one a device",
    "index": "one a device",
    "source": "nvml, dcgm, cpu",
    "owned": "true, false",
    "driver_version": "one a host",
    "energy_source": "energy_counter, power_integrated, rapl; of MIG instances with _share",
    "power_source": "field_instant, field_average, power_usage; of MIG instances with _share",
    "activity_source": "gpm, utilization_samples, utilization, unallocated",
    "clock": "sm, memory",
    "state": "empty, loaded",
    "statistic": "min, mean, max",
    "bound": "current, max",
    "action": "what nvml.h lists",
    "event": "what nvml.h lists",
    "direction": "transmit, receive, both; of disks and memory read, write",
    "interface": "adapters and interfaces of the host, at most 64 of the latter",
    "port": "ports of an adapter",
    "link_layer": "InfiniBand, Ethernet, unknown",
    "communicator": "64, then `other`",
    "collective": "the 12 collectives",
    "namespace": "those of its pods",
    "pod": "pods that hold devices of the host, at most labels.max_pods; then `other`",
    "gpu": "devices of the host",
    "owner": "pods and jobs that hold devices of the host",
    "container": "containers of those pods",
    "key": "`pod_labels`, at most 20",
    "value": "one a key and pod that holds a device",
    "disk": "disks of the host, at most 64",
    "mode": "user, system, idle, iowait, steal",
    "resource": "cpu, memory, io",
    "stall": "some, full",
    "counter": "closed, named in the source",
    "covers": "gpu, gpu+host, host",
    "basis": "list-estimate, list, contract, amortised",
    "workload": "labels.max_workloads, then `other`",
    "run": "labels.max_runs, then `other`",
    "model": "labels.max_models, then `other`",
    "tenant": "labels.max_tenants, then `other`",
    "category": "the 12 categories",
    "method": "tensor_active, dram_active, engine_estimate, declared",
    "precision": "16bit, 8bit",
    "phase": "the 12 phases and `rest`",
    "status": "ok, error, cancelled, lost",
    "token_type": "input, cached_input, output, training",
    "budget": "`budgets`, at most 50",
    "period": "day, week, month",
    "from": "the 12 categories",
    "to": "the 12 categories",
    "change": "raised, lowered",
    "reason": "closed, named in the source",
    "outcome": "accepted, lost, abandoned, invalid; of iterations in_time, late, missing; of OTLP "
    "as named in the source",
    "allocation_method": "the three by need",
    "label": "workload, run, model, tenant, pod",
    "collector": "the registered collectors",
    "process": "agent, nvml",
    "target": "places that the configuration names",
    "engine": "engines that there is a table for",
    "metric": "the engines' vocabulary",
    "source_name": "one a metric and engine",
    "pipe": "tensor, fp64, fp32, fp16",
    "codec": "encoder, decoder",
    "severity": "corrected, uncorrected",
    "xid": "codes that a device had, at most 64",
    "le": "at most 24 a histogram",
    "version": "one",
    "simulated": "true, or absent",
}
"""How many values a label can have. A label that is not here cannot be declared."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family. `source` is where its value comes from, `since` the first release.

    With `simulated` its samples carry `simulated="true"` where a simulator is behind the device,
    or behind the agent's devices as a whole.
    """

    name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    help: str
    source: str
    since: str = "0.1"
    simulated: bool = False

    def __post_init__(self) -> None:
        unbound = [label for label in self.labels if label not in BOUNDS]
        if unbound:
            raise ValueError(f"{self.name}: labels without a bound: {', '.join(unbound)}")
        if not re.fullmatch(r"apportion_[a-z0-9_]+", self.name.replace("{currency}", "usd")):
            raise ValueError(f"{self.name}: a name is lower case and begins with apportion_")
        if (self.kind == "counter") != self.name.endswith("_total"):
            raise ValueError(f"{self.name}: a counter, and nothing else, ends in _total")
        if "le" in self.labels:
            raise ValueError(f"{self.name}: only a histogram has le, and it goes without saying")

    @property
    def sample_labels(self) -> dict[str, tuple[str, ...]]:
        """The labels of its samples, by their name as declared."""
        if self.kind != "histogram":
            return {self.name: self.labels}
        bucket, *others = (f"{self.name}{part}" for part in PARTS)
        return {bucket: (*self.labels, "le"), **dict.fromkeys(others, self.labels)}

    @property
    def is_money(self) -> bool:
        """Whether the currency is in its name."""
        return "{currency}" in self.name

    def name_in(self, currency: str | None) -> str | None:
        """Its name for a ledger in `currency`; None for money where there is no currency."""
        if not self.is_money:
            return self.name
        return None if currency is None else self.name.format(currency=currency.lower())
