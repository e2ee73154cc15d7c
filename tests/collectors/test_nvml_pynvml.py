"""The real binding: structures that are read as bytes, and what only the library itself shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from struct import Struct

import pynvml
import pytest

from apportion.collectors.nvml_events import EVENTS
from apportion.collectors.nvml_pynvml import FIELD_LAYOUT, METRIC_LAYOUT, SAMPLE_LAYOUT
from apportion.collectors.nvml_telemetry import GPM_METRICS
from apportion.simulator import Simulator


@pytest.mark.parametrize(
    ("layout", "structure", "members"),
    [
        (
            FIELD_LAYOUT,
            pynvml.c_nvmlFieldValue_t,
            (
                *("fieldId", "scopeId", "timestamp", "latencyUsec"),
                *("valueType", "nvmlReturn", "value"),
            ),
        ),
        (SAMPLE_LAYOUT, pynvml.c_nvmlSample_t, ("timeStamp", "sampleValue")),
        (METRIC_LAYOUT, pynvml.c_nvmlGpmMetric_t, ("metricId", "nvmlReturn", "value")),
    ],
)
def test_layouts_are_those_of_the_binding(
    layout: Struct, structure: type, members: tuple[str, ...]
) -> None:
    """A member at another place would be another value."""
    assert layout.size == pynvml.sizeof(structure)
    codes = layout.format.lstrip("@")
    offset = 0
    for member, code in zip(members, codes, strict=False):
        size = Struct(code).size
        offset = -(-offset // size) * size
        assert (getattr(structure, member).offset, getattr(structure, member).size) == (
            offset,
            size,
        )
        offset += size


def test_events_carry_the_bits_of_the_binding() -> None:
    """A bit that is another event would be a false alarm, or none."""
    words = {
        "single_bit_ecc": "SingleBitEccError",
        "double_bit_ecc": "DoubleBitEccError",
        "xid": "XidCriticalError",
        "power_source_change": "PowerSourceChange",
        "single_bit_ecc_storm": "SingleBitEccErrorStorm",
        "dram_retirement": "DramRetirementEvent",
        "dram_retirement_failure": "DramRetirementFailure",
        "non_fatal_poison": "NonFatalPoisonError",
        "fatal_poison": "FatalPoisonError",
        "gpu_unavailable": "GpuUnavailableError",
        "recovery_action": "GpuRecoveryAction",
    }
    assert set(EVENTS.values()) == {*words, "mig_change"}
    for bit, event in EVENTS.items():
        if event != "mig_change":
            assert bit == getattr(pynvml, f"nvmlEventType{words[event]}")
    assert pynvml.nvmlEventMigConfigChange == 0x100


def test_metrics_carry_the_numbers_of_the_binding() -> None:
    """Receive and transmit are easily swapped: NVLink has them the other way round than PCIe."""
    names = {number: name for name, number in vars(pynvml).items() if "GPM_METRIC_" in name}
    told = {
        names[metric]: dict(labels).get("direction")
        for metric, ((_, labels), _) in GPM_METRICS.items()
    }
    assert {name: way for name, way in told.items() if way} == {
        "NVML_GPM_METRIC_PCIE_TX_PER_SEC": "transmit",
        "NVML_GPM_METRIC_PCIE_RX_PER_SEC": "receive",
        "NVML_GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC": "transmit",
        "NVML_GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC": "receive",
    }
    assert "NVML_GPM_METRIC_DRAM_BW_UTIL" in told


PROGRAM = """
import json, sys, time
from contextlib import suppress
from apportion.collectors.nvml_error import NvmlEmpty
from apportion.collectors.nvml_library import SAMPLES_POWER
from apportion.collectors.nvml_pynvml import PynvmlLibrary
library = PynvmlLibrary()
library.init()
handle = library.device_get_handle_by_index(0)
gpm = library.gpm_query(handle, [1, 999])
samples = library.device_sample_query(handle, SAMPLES_POWER)
first = [gpm.read(), False]
while not first[1]:  # a GPU that has just been started has no sample yet
    with suppress(NvmlEmpty):
        first[1] = len(samples.read()) > 0
time.sleep(0.5)
metrics, watts = gpm.read(), samples.read()
again = gpm.read()
gpm.close()
gpm.close()
events = library.event_set_create()
kinds = events.register(handle, "GPU-0", 0x8 | 0x4)
print(json.dumps([first, metrics, len(watts), min(watts), kinds, events.wait(10)]))
events.free()
library.shutdown()
"""


def test_what_the_library_gives(simulator: Simulator, simulated: Mapping[str, str]) -> None:
    """Differences between two reads, samples once each, and only events that a GPU has."""
    del simulator
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **simulated},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, metrics, count, lowest, kinds, event = json.loads(done.stdout)
    assert first == [None, True]
    assert metrics == [pytest.approx(90), None]
    assert 1 < count < 120
    assert lowest == 637_000
    assert (kinds, event) == (8, None)
