"""What each generation of SIMULATED GPUs tells, recorded: a value that is lost is noticed."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from tests.collectors.conftest import Until

from apportion.collectors.collector import Batch
from apportion.collectors.nvml_process import make_nvml
from apportion.collectors.options import CollectorOptions
from apportion.core.clock import SystemClock
from apportion.core.sample import Sample
from apportion.core.units import NS_PER_SECOND
from apportion.simulator import PROFILES, Simulator, environment

GOLDEN = Path(__file__).parent / "fixtures" / "nvml"
WRITE = "APPORTION_WRITE_GOLDEN"
"""Set this variable to record what is told now, and look at the difference before it is kept."""


SWEEPS = 4
"""Some is told from the second on: it is of the time between two."""


def told(batches: list[Batch], names: dict[str, str]) -> dict[str, Any]:
    """All that is told, without the values, which change; devices by `names`."""

    def key(sample: Sample) -> str:
        labels = (f"{label}={names.get(text, text)}" for label, text in sample.labels)
        return " ".join((sample.name, *labels))

    values: dict[str, set[str]] = {}
    samples: dict[str, set[str]] = {}
    for reading in (reading for batch in batches for reading in batch.readings):
        device = names[reading.device]
        known = {name for name, value in asdict(reading).items() if value not in (None, {}, ())}
        values.setdefault(device, set()).update(known - {"device", "time_ns", "samples"})
        samples.setdefault(device, set()).update(map(key, reading.samples))
    beside = {key(each) for batch in batches for each in batch.samples or ()}
    sources = [each for batch in batches for each in batch.sources]
    return {
        "devices": {names[i.device]: i.name for batch in batches for i in batch.devices},
        "unsupported": {names[each.device]: list(each.unsupported) for each in sources},
        "values": {device: sorted(found) for device, found in values.items()},
        "samples": {device: sorted(found) for device, found in samples.items()},
        "beside": sorted(beside),
    }


@pytest.mark.parametrize("profile", ["a100", "h100", "b200", "t4"])
def test_what_a_generation_tells(profile: str, tmp_path: Path, library: Path, until: Until) -> None:
    """One GPU as it is, and another that MIG has cut where it can be cut."""
    state = tmp_path / "state"
    with Simulator(state, profile=PROFILES[profile], devices=2, pcie_query_ns=0) as simulator:
        whole, cut = simulator.uuids
        names = {whole: "whole", cut: "cut", f"{cut}/unallocated": "rest"}
        if PROFILES[profile].mig_profiles:
            (instance,) = simulator.set_mig(1, [next(iter(PROFILES[profile].mig_profiles))])
            names[instance] = "instance"
        for index in range(2):
            simulator.set_utilization(index, 0.5)
        options = CollectorOptions(
            environment={**os.environ, **environment(state, library)}, period_ns=NS_PER_SECOND // 5
        )
        collector = make_nvml(options, SystemClock())
        batches: list[Batch] = []

        def enough() -> bool:
            batches.append(collector.collect())
            readings = Counter(each.device for batch in batches for each in batch.readings)
            return len(readings) >= 2 and min(readings.values()) >= SWEEPS

        with simulator.running():
            collector.start()
            try:
                until(enough)
            finally:
                collector.close()
    found = told(batches, names)
    golden = GOLDEN / f"{profile}.json"
    if os.environ.get(WRITE):
        golden.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    assert found == json.loads(golden.read_text())
