"""GPUs that fail, each in another way, beside others that are well: all at the same time.

What was seen is kept, and each fault has its test. Faults that take the process with them which
reads NVML, or that concern all GPUs, are in `test_nvml.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.faults.gpus import Gpus, Look, metered

HEALTHY: Final = (0, 1)
SILENT: Final = {
    2: ("lost", "lost"),
    3: ("reset-required", "reset_required"),
    4: ("no-permission", "forbidden"),
    5: ("hang", "hanging"),
}
"""By index: the fault, and the word for it on /metrics."""
ODD: Final = {
    6: "slow",
    7: "garbage-processes",
    8: "ecc-storm",
    9: "thermal",
    10: "power-cap",
    11: "counter-reset",
    12: "counter-wrap",
}
"""Faults of GPUs that answer."""
XID: Final = 13
POWER_CAP, WRAP = 10, 12
"""The one must be busy to reach its limit, the other to have traffic."""
WRAP_BYTES: Final = 1 << 32


class Seen:
    """What the agent showed while the faults lasted and after they were over."""

    def __init__(self, gpus: Gpus) -> None:
        self.ids = gpus.ids
        answering = (*HEALTHY, *ODD, XID)
        gpus.simulator.set_utilization(POWER_CAP, 0.5)
        gpus.simulator.set_utilization(WRAP, 0.9)
        gpus.agent.eventually(lambda: self.sent(gpus.look()) > WRAP_BYTES, "4 GiB were sent")
        self.before = gpus.look()
        # Before a GPU is lost: NVML's events are made anew then, and what comes meanwhile is
        # nobody's but the kernel log's.
        gpus.simulator.xid(XID, 79)
        gpus.agent.eventually(lambda: self.xids(gpus.look()), "the XID is shown")
        for index, (fault, _) in SILENT.items():
            gpus.simulator.fault(fault, index)
        for index, fault in ODD.items():
            gpus.simulator.fault(fault, index, value=5_000 if fault == "slow" else None)
        self.sentence = {
            index: gpus.until_failing(index, word) for index, (_, word) in SILENT.items()
        }
        gpus.until_unattributed(*SILENT)
        gpus.until_flowing(*answering, looks=3)
        self.during = gpus.look()
        self.unattributed_ns = {index: gpus.unattributed_ns(index) for index in range(XID + 1)}
        gpus.simulator.clear()
        gpus.until_read()
        gpus.until_known(*range(XID + 1))
        self.after = gpus.look()
        self.faults = gpus.agent.book.faults()

    def sent(self, look: Look) -> float:
        """What the GPU has sent over PCIe whose counter wraps, or will."""
        device = self.ids[WRAP]
        return look.value("device_pcie_bytes_total", device=device, direction="transmit") or 0.0

    def xids(self, look: Look) -> float | None:
        """How many XIDs were counted of the GPU that has one."""
        return look.value("device_xid_errors_total", device=self.ids[XID], xid="79")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, library: Path) -> Iterator[Seen]:
    """The faults have come and gone."""
    with metered(tmp_path_factory.mktemp("gpus"), library, devices=XID + 1) as gpus:
        yield Seen(gpus)


@pytest.mark.parametrize("index", HEALTHY)
def test_healthy_gpus_notice_nothing(seen: Seen, index: int) -> None:
    """Their series went on at every look, and every reading of theirs came in time."""
    device = seen.ids[index]
    assert [look.is_up(device) for look in (seen.before, seen.during, seen.after)] == [True] * 3
    assert seen.unattributed_ns[index] == 0


@pytest.mark.parametrize("index", SILENT, ids=[fault for fault, _ in SILENT.values()])
def test_a_gpu_that_does_not_answer(seen: Seen, index: int) -> None:
    """It says why in a word and a sentence, its time is unattributed, and it comes back."""
    device = seen.ids[index]
    assert not seen.during.is_up(device)
    assert device in seen.sentence[index]
    assert seen.unattributed_ns[index] > 0
    assert seen.after.is_up(device)
    assert seen.after.failure(device) == ""
    assert seen.after.energy(device) > seen.before.energy(device)


@pytest.mark.parametrize("index", [*ODD, XID], ids=(*ODD.values(), "xid"))
def test_a_gpu_that_answers_is_read(seen: Seen, index: int) -> None:
    """What it says may be odd; its time is known, and the ledger adds up."""
    assert seen.during.is_up(seen.ids[index])
    assert seen.during.failure(seen.ids[index]) == ""
    assert seen.unattributed_ns[index] == 0
    assert seen.faults == []


def of(seen: Seen, look: Look, fault: str, name: str, **labels: str) -> float:
    """A value of the GPU that had the fault."""
    index = next(index for index, known in ODD.items() if known == fault)
    return look.value(name, device=seen.ids[index], **labels) or 0.0


def test_an_ecc_storm_is_counted(seen: Seen) -> None:
    """Errors and the driver's event; the counters stay when the storm is over."""
    counted = of(seen, seen.after, "ecc-storm", "device_ecc_errors_total", severity="corrected")
    assert counted > of(
        seen, seen.before, "ecc-storm", "device_ecc_errors_total", severity="corrected"
    )


@pytest.mark.parametrize(
    ("fault", "active", "seconds"),
    [("thermal", "sw_thermal", "thermal"), ("power-cap", "power", "power")],
)
def test_throttling_is_shown_with_its_reason(
    seen: Seen, fault: str, active: str, seconds: str
) -> None:
    """Now, and in seconds; it is over when the fault is."""
    name = "device_throttle_active"
    assert of(seen, seen.during, fault, name, reason=active) == 1
    assert of(seen, seen.after, fault, name, reason=active) == 0
    spent = of(seen, seen.after, fault, "device_throttled_seconds_total", reason=seconds)
    assert spent > of(seen, seen.before, fault, "device_throttled_seconds_total", reason=seconds)


def test_a_counter_that_began_anew_loses_no_energy(seen: Seen) -> None:
    """Its source shows less than before, and the ledger's energy does not fall."""
    before, during = (
        of(seen, look, "counter-reset", "device_energy_joules_total")
        for look in (seen.before, seen.during)
    )
    assert during < before


def test_a_counter_that_wraps_is_shown_as_it_is(seen: Seen) -> None:
    """Nothing is guessed of it, as of any counter that falls; no cost and no joule hangs on it."""
    assert seen.sent(seen.before) > WRAP_BYTES > seen.sent(seen.during) > 0
    assert seen.sent(seen.after) > WRAP_BYTES


def test_processes_that_cannot_be_are_left_out(seen: Seen) -> None:
    """Rows without a process, or with more memory than there is, are no processes."""
    assert of(seen, seen.during, "garbage-processes", "device_processes") == 0


def test_an_xid_is_counted_once_with_its_time(seen: Seen) -> None:
    """By its code; the time is the wall clock's."""
    device = seen.ids[XID]
    for look in (seen.during, seen.after):
        assert seen.xids(look) == 1
        last = look.value("device_xid_last_timestamp_seconds", device=device, xid="79")
        now = look.value("snapshot_timestamp_seconds")
        assert last is not None
        assert now is not None
        assert 0 < last <= now
