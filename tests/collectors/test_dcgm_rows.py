"""Rows of dcgm-exporter by GPU: names, labels, units, blanks."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.collectors.dcgm_fields import FIELDS, WANTED, is_blank
from apportion.collectors.dcgm_rows import GpuRows, gpu_rows
from apportion.collectors.exposition_text import parse

HERE = Path(__file__).parent / "fixtures/dcgm"
ONE, TWO = "GPU-0000aaaa-1", "GPU-0000aaaa-2"


def read(text: str) -> dict[str, GpuRows]:
    return gpu_rows(parse(text, WANTED))


def told(field: str, value: str, **labels: str) -> float | None:
    """What one row of a field becomes, by the word of `FIELDS`."""
    block = ",".join(f'{name}="{text}"' for name, text in {"UUID": "GPU-1", **labels}.items())
    gpus = read(f"{field}{{{block}}} {value}\n")
    found = gpus["GPU-1"].values
    return next(iter(found.values())) if found else None


def test_old_names_and_old_labels() -> None:
    """Every value in our units; what is blank, or a sensor's 0, is absent."""
    gpus = read((HERE / "whole.prom").read_text())
    assert list(gpus) == [ONE, TWO]
    gpu = gpus[ONE]
    assert (gpu.index, gpu.model, gpu.driver_version) == (0, "NVIDIA H100 80GB HBM3", "580.95.05")
    assert gpu.values == {
        "energy_mj": 15152422938,
        "power_mw": 310_250,
        "engine_active": 0.4,
        "utilization": 0.91,
        "memory_free_bytes": 40_000 << 20,
        "memory_used_bytes": 40_960 << 20,
        "memory_reserved_bytes": 599 << 20,
        "temperature_celsius": 61,
        "sm_clock_hz": 1_980_000_000,
        "nvlink_tx_bytes": 3_000,
        "xid": 31,
        "pcie_tx_rate": 4_791_810,
        "nvlink_rate": 256_000_000,
        "power_throttled": 2.5,
    }
    assert gpus[TWO].values == {
        "energy_mj": 5152422938,
        "utilization": 0.0,
        "temperature_celsius": 30,
    }


def test_new_names_and_new_labels_mean_the_same() -> None:
    """By the third generation of names, in base units, everything is as by the first."""
    old = read((HERE / "whole.prom").read_text())[ONE]
    new = read((HERE / "renamed.prom").read_text())[ONE]
    assert (new.index, new.model, new.driver_version) == (0, old.model, old.driver_version)
    assert new.values["memory_total_bytes"] == sum(
        old.values[f"memory_{part}_bytes"] for part in ("used", "free", "reserved")
    )
    shared = set(new.values) - {"memory_total_bytes", "energy_mj"}
    assert {word: new.values[word] for word in shared} == pytest.approx(
        {word: old.values[word] for word in shared}
    )
    assert new.values["energy_mj"] == 15152423_000


@pytest.mark.parametrize(
    ("value", "ratio"), [("91", 0.91), ("1", 0.01), ("0.910000", 0.91), ("1.000000", 1.0)]
)
def test_a_name_that_was_a_percentage_and_is_a_ratio(value: str, ratio: float) -> None:
    """DCGM 4.5's GPU_UTIL_RATIO is a whole percentage, 4.7's a fraction: the form tells."""
    assert told("DCGM_FI_DEV_GPU_UTIL_RATIO", value) == pytest.approx(ratio)


@pytest.mark.parametrize(
    "value",
    ["9223372036854775792", "9223372036854775794", "140737488355328.000000", "NaN", "+Inf", "-5"],
)
def test_blanks(value: str) -> None:
    """DCGM's words for: there is no value; and what cannot be one."""
    assert told("DCGM_FI_DEV_POWER_USAGE", value) is None


def test_an_energy_of_nothing_is_no_reset() -> None:
    """A counter that shows 0 for once and then itself again would be counted twice."""
    assert told("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "0") is None


def test_a_large_counter_is_no_blank() -> None:
    """Forty megawatt-hours in millijoules are above the blank of doubles, not of integers."""
    assert told("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "150000000000000") == 150_000_000_000_000
    assert not is_blank(2**62)
    assert is_blank(float(2**62))
    assert is_blank(math.nan)


@pytest.mark.parametrize(
    "labels",
    [
        {"UUID": ""},
        {"UUID": "../../etc"},
        {"UUID": "x" * 200},
        {"UUID": "a b"},
        {"nvswitch": "3"},
        {"cpu": "0"},
    ],
)
def test_rows_of_no_gpu(labels: dict[str, str]) -> None:
    """Switches, CPUs, and ids that are none."""
    block = ",".join(f'{name}="{text}"' for name, text in labels.items())
    assert read(f"DCGM_FI_DEV_POWER_USAGE{{{block}}} 5\n") == {}


def test_instances_have_their_rows() -> None:
    """By GPU instance; a whole-GPU field that is repeated is found from any of them."""
    gpu = read((HERE / "mig.prom").read_text())["GPU-0000bbbb-1"]
    assert {number: rows.profile for number, rows in gpu.instances.items()} == {
        2: "3g.40gb",
        9: "1g.10gb",
    }
    assert gpu.whole("energy_mj") == 126272106318
    assert gpu.whole("power_mw") == 350_000
    assert gpu.whole("xid") is None
    assert gpu.instances[2].values["engine_active"] == 0.9
    assert gpu.values == {"temperature_celsius": 55, "pcie_replays": 3}


def test_the_exporters_own_counter_of_xids() -> None:
    """By code; the count in a sliding window, which falls, is not read."""
    text = (
        'DCGM_FI_DEV_GPU_TEMP{UUID="GPU-1"} 50\n'
        'DCGM_EXP_XID_ERRORS_TOTAL{UUID="GPU-1",xid="79"} 3\n'
        'DCGM_EXP_XID_ERRORS_TOTAL{UUID="GPU-1"} 0\n'
        'DCGM_EXP_XID_ERRORS_COUNT{UUID="GPU-1",window_size_in_ms="300000",xid="79"} 9\n'
    )
    assert read(text)["GPU-1"].xids == {79: 3}


def test_every_name_belongs_to_one_field() -> None:
    """None is read in two units."""
    names = [spelling.name for field in FIELDS.values() for spelling in field]
    assert len(names) == len(set(names))


def test_every_renamed_field_is_known_by_both_names(published: Path) -> None:
    """DCGM's own list of what it renamed: where we read the old name we read the new one, too."""
    with (published / "dcgm/dcgm_field_alias_old_to_new.csv").open() as file:
        renamed = {row["old_name"]: row["new_name"] for row in csv.DictReader(file)}
    by_name = {spelling.name: word for word, field in FIELDS.items() for spelling in field}
    both = {old: new for old, new in renamed.items() if old in by_name or new in by_name}
    assert len(both) > 20
    for old, new in both.items():
        assert by_name.get(old) == by_name.get(new), (old, new)


def test_every_field_of_the_exporters_default_list_is_known(published: Path) -> None:
    """All that it shows by default is read, but for the licence of a vGPU."""
    lines = (published / "dcgm/dcgm-exporter__default-counters.csv").read_text().splitlines()
    shown = {
        line.split(",")[0].strip()
        for line in lines
        if line.strip() and not line.startswith("#") and " label" not in line
    }
    assert shown - WANTED == {"DCGM_FI_DEV_VGPU_LICENSE_STATUS"}


NAMES = st.sampled_from(sorted(WANTED))


@given(
    st.lists(
        st.tuples(
            NAMES,
            st.sampled_from(["GPU-1", "GPU-2", "", "MIG"]),
            st.sampled_from(["", "0", "7", "x", "99999999999"]),
            st.sampled_from(["", "1g.10gb", "3g.40gb", "?"]),
            st.one_of(st.integers(-(2**70), 2**70), st.floats()),
        ),
        max_size=40,
    )
)
def test_any_rows_are_read(rows: list[tuple[str, str, str, str, float]]) -> None:
    """Whatever an exporter shows: values are finite and not negative, ratios within 0 to 1."""
    text = "".join(
        f'{name}{{UUID="{uuid}",GPU_I_ID="{number}",GPU_I_PROFILE="{profile}"}} {value!r}\n'
        for name, uuid, number, profile, value in rows
    )
    for gpu in read(text).values():
        for values in (gpu.values, *(each.values for each in gpu.instances.values())):
            for word, value in values.items():
                assert math.isfinite(value)
                assert value >= 0 or word.endswith(("celsius", "temperature"))
                if word in {"engine_active", "utilization", "dram_active"}:
                    assert value <= 1
