from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml
import pytest

from apportion.simulator import Simulator
from apportion.simulator.build import SOURCES
from apportion.simulator.faults import ECC_STORM_EVENT, XID_EVENT
from apportion.simulator.health import (
    GPU_IDLE,
    HW_SLOWDOWN,
    HW_THERMAL,
    SW_POWER_CAP,
    SW_THERMAL,
)
from apportion.simulator.publication import RESET_ACTION

Ask = Callable[[Path, str], Any]

# Each structure of abi.h with its members, and nvidia-ml-py's class where it has one.
STRUCTURES: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "nvmlPciInfo_t": (
        "nvmlPciInfo_t",
        ("busIdLegacy", "domain", "bus", "device", "pciDeviceId", "pciSubSystemId", "busId"),
    ),
    "nvmlPciInfoExt_t": (
        "nvmlPciInfoExt_v1_t",
        (
            "version",
            "domain",
            "bus",
            "device",
            "pciDeviceId",
            "pciSubSystemId",
            "baseClass",
            "subClass",
            "busId",
        ),
    ),
    "nvmlUtilization_t": ("c_nvmlUtilization_t", ("gpu", "memory")),
    "nvmlMemory_t": ("c_nvmlMemory_t", ("total", "free", "used")),
    "nvmlMemory_v2_t": (
        "c_nvmlMemory_v2_t",
        ("version", "total", "reserved", "free", "used"),
    ),
    "nvmlBAR1Memory_t": ("c_nvmlBAR1Memory_t", ("bar1Total", "bar1Free", "bar1Used")),
    "nvmlProcessInfo_v1_t": (None, ("pid", "usedGpuMemory")),
    "nvmlProcessInfo_t": (
        "c_nvmlProcessInfo_v3_t",
        ("pid", "usedGpuMemory", "gpuInstanceId", "computeInstanceId"),
    ),
    "nvmlProcessUtilizationSample_t": (
        "c_nvmlProcessUtilizationSample_t",
        ("pid", "timeStamp", "smUtil", "memUtil", "encUtil", "decUtil"),
    ),
    "nvmlProcessUtilizationInfo_v1_t": (
        "c_nvmlProcessUtilizationInfo_v1_t",
        ("timeStamp", "pid", "smUtil", "memUtil", "encUtil", "decUtil", "jpgUtil", "ofaUtil"),
    ),
    "nvmlProcessesUtilizationInfo_t": (
        "c_nvmlProcessesUtilizationInfo_v1_t",
        ("version", "processSamplesCount", "lastSeenTimeStamp", "procUtilArray"),
    ),
    "nvmlValue_t": (
        "c_nvmlValue_t",
        ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal"),
    ),
    "nvmlFieldValue_t": (
        "c_nvmlFieldValue_t",
        ("fieldId", "scopeId", "timestamp", "latencyUsec", "valueType", "nvmlReturn", "value"),
    ),
    "nvmlTemperature_t": (
        "c_nvmlTemperature_v1_t",
        ("version", "sensorType", "temperature"),
    ),
    "nvmlUUID_t": ("c_nvmlUUID_t", ("version", "type", "value")),
    "nvmlC2cModeInfo_v1_t": ("c_nvmlC2cModeInfo_v1_t", ("isC2cEnabled",)),
    "nvmlSample_t": ("c_nvmlSample_t", ("timeStamp", "sampleValue")),
    "nvmlEventData_t": (
        "c_nvmlEventData_t",
        ("device", "eventType", "eventData", "gpuInstanceId", "computeInstanceId"),
    ),
    "nvmlDeviceAttributes_t": (
        "c_nvmlDeviceAttributes",
        (
            "multiprocessorCount",
            "sharedCopyEngineCount",
            "sharedDecoderCount",
            "sharedEncoderCount",
            "sharedJpegCount",
            "sharedOfaCount",
            "gpuInstanceSliceCount",
            "computeInstanceSliceCount",
            "memorySizeMB",
        ),
    ),
    "nvmlGpmMetric_t": (
        "c_nvmlGpmMetric_t",
        ("metricId", "nvmlReturn", "value", "metricInfo"),
    ),
    "nvmlGpmMetricsGet_t": (
        "c_nvmlGpmMetricsGet_t",
        ("version", "numMetrics", "sample1", "sample2", "metrics"),
    ),
    "nvmlGpmSupport_t": ("c_nvmlGpmSupport_t", ("version", "isSupportedDevice")),
}
PROGRAM = (
    '#include <stddef.h>\n#include <stdio.h>\n#include "abi.h"\nint main(void) {\n'
    + "".join(
        f'printf("{name} %zu\\n", sizeof({name}));\n'
        + "".join(
            f'printf("{name}.{member} %zu %zu\\n", offsetof({name}, {member}), '
            f"sizeof((({name} *)0)->{member}));\n"
            for member in members
        )
        for name, (_, members) in STRUCTURES.items()
    )
    + "return 0;\n}\n"
)
ANSWERED = sorted(
    path
    for path in SOURCES.glob("*.c")
    if path.name not in {"unsupported.c", "state.c", "faults.c"}
)


def test_structures_are_those_of_nvml_h(
    compile_and_run: Callable[[str, list[str]], str], nvml_include: Path
) -> None:
    """Sizes and offsets of our declarations equal those that the compiler makes of nvml.h."""
    ours = compile_and_run(PROGRAM, [f"-I{SOURCES}"])
    theirs = compile_and_run(
        PROGRAM, [f"-I{SOURCES}", f"-I{nvml_include}", "-DAPPORTION_CHECK_ABI"]
    )
    assert ours == theirs


def test_structures_are_those_of_nvidia_ml_py(
    compile_and_run: Callable[[str, list[str]], str],
) -> None:
    """Sizes and offsets of our declarations equal those that nvidia-ml-py passes in."""
    expected: list[str] = []
    compared: set[str] = set()
    for name, (class_name, members) in STRUCTURES.items():
        structure = getattr(pynvml, class_name, None) if class_name is not None else None
        if structure is None:
            continue
        compared.add(name)
        expected.append(f"{name} {pynvml.sizeof(structure)}")
        for member in members:
            descriptor = getattr(structure, member)
            expected.append(f"{name}.{member} {descriptor.offset} {descriptor.size}")
    ours = compile_and_run(PROGRAM, [f"-I{SOURCES}"]).splitlines()
    assert [line for line in ours if re.split(r"[ .]", line)[0] in compared] == expected
    assert len(compared) >= len(STRUCTURES) - 1


@pytest.mark.parametrize("source", ANSWERED, ids=[path.stem for path in ANSWERED])
def test_prototypes_are_those_of_nvml_h(source: Path, nvml_include: Path) -> None:
    """Compiled against NVIDIA's declarations, a parameter of the wrong type would be an error."""
    command = ["cc", "-std=c11", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"]
    flags = ["-Wno-deprecated-declarations", "-DAPPORTION_CHECK_ABI", f"-I{nvml_include}"]
    result = subprocess.run(
        [*command, *flags, str(source)], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_every_function_that_a_tool_may_look_up_is_there(
    tmp_path: Path, ask: Ask, nvml_include: Path
) -> None:
    """What nvidia-ml-py or nvml.h names is exported, so that no tool stops at a symbol."""
    binding = Path(pynvml.__file__).read_text()
    names = set(re.findall(r'_nvmlGetFunctionPointer\("(\w+)"', binding))
    header = (nvml_include / "nvml.h").read_text(errors="replace")
    names |= set(re.findall(r"DECLDIR (nvml\w+)", header))
    assert len(names) > 400
    with Simulator(tmp_path / "state") as simulator:
        missing = ask(
            simulator.state,
            f"""
            import ctypes
            loaded = ctypes.CDLL("libnvidia-ml.so.1")
            answer = [name for name in {sorted(names)!r} if not hasattr(loaded, name)]
            """,
        )
    assert missing == []


def test_codes_and_fields_carry_the_numbers_of_nvidia_ml_py() -> None:
    """An error code or a field identifier with the wrong number would answer another question."""
    codes = re.findall(r"(NVML_ERROR_\w+) = (\d+)", (SOURCES / "abi.h").read_text())
    assert len(codes) == 31
    assert {name: int(number) for name, number in codes} == {
        name: getattr(pynvml, name) for name, _ in codes
    }
    fields = re.findall(r"FIELD_(\w+) = (\d+)", (SOURCES / "fields.c").read_text())
    fields = [(name, number) for name, number in fields if name != "MAX"]
    assert len(fields) == 47
    assert {name: int(number) for name, number in fields} == {
        name: getattr(pynvml, f"NVML_FI_DEV_{name}") for name, _ in fields
    }
    metrics = re.findall(r"METRIC_(\w+) = (\d+)", (SOURCES / "gpm.c").read_text())
    assert len(metrics) == 17
    assert {name: int(number) for name, number in metrics} == {
        name: getattr(pynvml, f"NVML_GPM_METRIC_{name}") for name, _ in metrics
    }


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (XID_EVENT, "nvmlEventTypeXidCriticalError"),
        (ECC_STORM_EVENT, "nvmlEventTypeSingleBitEccErrorStorm"),
        (GPU_IDLE, "nvmlClocksEventReasonGpuIdle"),
        (SW_POWER_CAP, "nvmlClocksEventReasonSwPowerCap"),
        (HW_SLOWDOWN, "nvmlClocksThrottleReasonHwSlowdown"),
        (SW_THERMAL, "nvmlClocksEventReasonSwThermalSlowdown"),
        (HW_THERMAL, "nvmlClocksThrottleReasonHwThermalSlowdown"),
        (RESET_ACTION, "NVML_GPU_RECOVERY_ACTION_GPU_RESET"),
    ],
)
def test_bits_are_those_of_nvml_h(
    ours: int, theirs: str, compile_and_run: Callable[[str, list[str]], str], nvml_include: Path
) -> None:
    """Events and reasons by the controller carry the bits that nvml.h gives them."""
    program = (
        "#include <stdio.h>\n#include <nvml.h>\n"
        f'int main(void) {{ printf("%lld", (long long){theirs}); }}'
    )
    assert int(compile_and_run(program, [f"-I{nvml_include}"])) == ours
