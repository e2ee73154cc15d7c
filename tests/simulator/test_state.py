from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apportion.core.clock import ManualClock
from apportion.simulator import PROFILES, Simulator, identity, state, state_file
from apportion.simulator.build import SOURCES
from apportion.simulator.faults import Switch

Ask = Callable[[Path, str], Any]

STRUCTURES: dict[str, type[ctypes.Structure]] = {
    "sim_fault": state.FaultSwitch,
    "sim_header": state.Header,
    "sim_facts": state.DeviceFacts,
    "sim_event": state.Event,
    "sim_events": state.Events,
    "sim_process": state.ProcessValues,
    "sim_instance": state.InstanceValues,
    "sim_sample": state.SampleValues,
    "sim_values": state.DeviceValues,
    "sim_device": state.Device,
}
CONSTANTS = {
    "SIM_STATE_MAGIC": state.MAGIC,
    "SIM_STATE_VERSION": state.VERSION,
    "SIM_HEADER_BYTES": state.HEADER_BYTES,
    "SIM_DEVICE_BYTES": state.DEVICE_BYTES,
    "SIM_MAX_DEVICES": state.MAX_DEVICES,
    "SIM_MAX_PROCESSES": state.MAX_PROCESSES,
    "SIM_MAX_NVLINKS": state.MAX_NVLINKS,
    "SIM_MAX_INSTANCES": state.MAX_INSTANCES,
    "SIM_MAX_SAMPLES": state.MAX_SAMPLES,
    "SIM_MAX_EVENTS": state.MAX_EVENTS,
    "SIM_FAULTS": state.FAULTS,
    "SIM_LIMITS": state.LIMITS,
    "SIM_NO_END": state.NO_END,
    "SIM_CAN_AVERAGE_POWER": state.CAN_AVERAGE_POWER,
    "SIM_CAN_MEMORY_TEMPERATURE": state.CAN_MEMORY_TEMPERATURE,
    "SIM_CAN_MIG": state.CAN_MIG,
    "SIM_CAN_GPM": state.CAN_GPM,
    "SIM_CAN_REMAP_ROWS": state.CAN_REMAP_ROWS,
    "SIM_HAS_NVLINK5": state.HAS_NVLINK5,
    **{f"SIM_FAULT_{switch.name}": int(switch) for switch in Switch},
}


def test_the_python_layout_is_the_c_layout(
    compile_and_run: Callable[[str, list[str]], str],
) -> None:
    """Every size, offset and constant of state.py equals what the compiler makes of state.h."""
    lines = [
        f'printf("{name} %zu\\n", sizeof(struct {name}));\n'
        + "".join(
            f'printf("{name}.{field[0]} %zu %zu\\n", offsetof(struct {name}, {field[0]}), '
            f"sizeof(((struct {name} *)0)->{field[0]}));\n"
            for field in structure._fields_
        )
        for name, structure in STRUCTURES.items()
    ]
    lines += [f'printf("{name} %llu\\n", (unsigned long long){name});\n' for name in CONSTANTS]
    program = (
        '#include <stddef.h>\n#include <stdio.h>\n#include "state.h"\n'
        f"int main(void) {{\n{''.join(lines)}return 0;\n}}\n"
    )
    expected: list[str] = []
    for name, structure in STRUCTURES.items():
        expected.append(f"{name} {ctypes.sizeof(structure)}")
        for field in structure._fields_:
            descriptor = getattr(structure, field[0])
            expected.append(f"{name}.{field[0]} {descriptor.offset} {descriptor.size}")
    expected += [f"{name} {value}" for name, value in CONSTANTS.items()]
    assert compile_and_run(program, [f"-I{SOURCES}"]).splitlines() == expected


def header(devices: int = 1) -> state.Header:
    return identity.header(PROFILES["h100"], 0, devices, 0)


def facts(devices: int = 1) -> list[state.DeviceFacts]:
    return [identity.facts(PROFILES["h100"], 0, index) for index in range(devices)]


def energies(energy_mj: int) -> state.DeviceValues:
    return state.DeviceValues(energy_mj=energy_mj)


ENERGY = """
    nvml.nvmlInit()
    device = nvml.nvmlDeviceGetHandleByIndex(0)
    try:
        answer = nvml.nvmlDeviceGetTotalEnergyConsumption(device)
    except nvml.NVMLError as error:
        answer = [error.value]
"""


def test_a_publication_cut_short_leaves_the_last_whole_one(tmp_path: Path, ask: Ask) -> None:
    """A controller killed while it fills a slot never shows half of it."""
    path = tmp_path / "state"
    file = state_file.StateFile(path, header(), facts())
    file.publish(0, energies(111))
    file.publish(0, energies(222))
    file.close()
    slots = state.HEADER_BYTES + state.Device.slots.offset
    half = ctypes.sizeof(state.DeviceValues) // 2
    unused = slots + 0 * ctypes.sizeof(state.DeviceValues)  # 222 went to slot 1: 1 + 2 before it
    with path.open("r+b") as raw:
        raw.seek(unused)
        raw.write(b"\xff" * half)
    assert ask(path, ENERGY) == 222


def test_a_torn_slot_is_never_believed(tmp_path: Path, ask: Ask) -> None:
    """Where stores came out of order the checksum refuses the slot: an error, not a number."""
    path = tmp_path / "state"
    file = state_file.StateFile(path, header(), facts())
    file.publish(0, energies(111))
    file.close()
    slot = state.HEADER_BYTES + state.Device.slots.offset  # the second publication: sequence 2
    with path.open("r+b") as raw:
        raw.seek(slot + state.DeviceValues.energy_mj.offset)
        raw.write((112).to_bytes(8, "little"))
    assert ask(path, ENERGY) == [999]


READER = r"""
#include <stdio.h>
#include <stdlib.h>
#include "abi.h"

extern nvmlReturn_t nvmlInit_v2(void);
extern nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int, nvmlDevice_t *);
extern nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t, int, nvmlFieldValue_t *);

enum { LINKS = 18, FIELDS = 2 * LINKS + 4 };

int main(void)
{
    nvmlDevice_t device;
    nvmlFieldValue_t fields[FIELDS] = {0};
    unsigned long long last = 0, different = 0;
    if (nvmlInit_v2() || nvmlDeviceGetHandleByIndex_v2(0, &device))
        return 2;
    for (int link = 0; link < LINKS; link++) {
        fields[link].fieldId = 138;
        fields[link].scopeId = (unsigned int)link;
        fields[LINKS + link].fieldId = 139;
        fields[LINKS + link].scopeId = (unsigned int)link;
    }
    fields[FIELDS - 4].fieldId = 83;
    fields[FIELDS - 3].fieldId = 191;
    fields[FIELDS - 2].fieldId = 197;
    fields[FIELDS - 1].fieldId = 198;
    while (different < 2000) {
        nvmlReturn_t result = nvmlDeviceGetFieldValues(device, FIELDS, fields);
        if (result != NVML_SUCCESS) {
            printf("error %d\n", (int)result);
            return 1;
        }
        unsigned long long seen = fields[0].value.ullVal;
        for (int index = 0; index < FIELDS; index++)
            if (fields[index].nvmlReturn != NVML_SUCCESS || fields[index].value.ullVal != seen ||
                (unsigned long long)fields[index].timestamp != seen) {
                printf("torn: %llu and %llu\n", seen, fields[index].value.ullVal);
                return 1;
            }
        if (seen < last) {
            printf("back from %llu to %llu\n", last, seen);
            return 1;
        }
        different += seen != last;
        last = seen;
    }
    printf("whole\n");
    return 0;
}
"""


def test_no_torn_value_under_a_concurrent_writer(tmp_path: Path, library: Path) -> None:
    """A reader at full speed beside a writer at full speed only ever sees whole publications."""
    source, program = tmp_path / "reader.c", tmp_path / "reader"
    source.write_text(READER)
    subprocess.run(
        ["cc", "-std=c11", "-O2", "-o", program, source, f"-I{SOURCES}", library], check=True
    )
    path = tmp_path / "state"
    file = state_file.StateFile(path, header(), facts())
    reader = subprocess.Popen(
        [program],
        env={"LD_LIBRARY_PATH": str(library.parent), identity.STATE_VARIABLE: str(path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    number = 0
    while reader.poll() is None:
        number += 1
        links = [1_024 * number] * state.MAX_NVLINKS
        values = state.DeviceValues(
            published_us=number, energy_mj=number, pcie_tx_bytes=number, pcie_rx_bytes=number
        )
        values.nvlink_tx_bytes[:] = links
        values.nvlink_rx_bytes[:] = links
        file.publish(0, values)
    file.close()
    output, _ = reader.communicate()
    assert output == "whole\n"


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        pytest.param(b"", 9, id="empty: no driver"),
        pytest.param(b"\0" * state.HEADER_BYTES, 18, id="no magic: not this library's driver"),
        pytest.param(bytes(header(devices=3)).ljust(state.HEADER_BYTES, b"\0"), 999, id="cut"),
    ],
)
def test_a_damaged_state_file_is_an_error_at_init(
    tmp_path: Path, ask: Ask, damage: bytes, expected: int
) -> None:
    """The library refuses what it cannot read, with the code that a broken driver gives."""
    path = tmp_path / "state"
    path.write_bytes(damage)
    assert ask(path, "answer = code(nvml.nvmlInit)") == expected


def test_no_state_file_is_no_driver(tmp_path: Path, ask: Ask) -> None:
    """Without a controller there are no GPUs: DRIVER_NOT_LOADED."""
    assert ask(tmp_path / "absent", "answer = code(nvml.nvmlInit)") == 9


def test_too_many_devices_are_refused(tmp_path: Path) -> None:
    """The library has 64 handles."""
    with pytest.raises(ValueError, match="a state file holds 64"):
        Simulator(tmp_path / "state", devices=65)
    assert [entry.name for entry in tmp_path.iterdir()] == [".state.lock"]


def test_a_state_file_appears_whole(tmp_path: Path) -> None:
    """It is renamed into place, nothing temporary is left, and others may read it."""
    path = tmp_path / "state"
    with Simulator(path, devices=2, clock=ManualClock()):
        assert {entry.name for entry in tmp_path.iterdir()} == {"state", ".state.lock"}
        assert path.stat().st_mode & 0o777 == 0o644
        assert path.stat().st_size == state.HEADER_BYTES + 2 * state.DEVICE_BYTES
