"""Faults that take NVML's process with them or concern all GPUs, and letting go of it at will."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.faults.gpus import Gpus, metered
from tests.faults.node import Workload

ALL: Final = (0, 1, 2, 3)
HEALTHY: Final = (0, 1, 2)
FAULTY: Final = 3
SPANS: Final = 20
KERNELS: Final = "pci:0000:17:00"
"""A GPU as the kernel's log names it."""


@pytest.fixture(scope="module")
def metering(tmp_path_factory: pytest.TempPathFactory, library: Path) -> Iterator[Gpus]:
    """Four GPUs and one agent for all tests; in the end the ledger adds up."""
    with metered(tmp_path_factory.mktemp("nvml"), library, devices=len(ALL)) as gpus:
        yield gpus


@pytest.fixture
def gpus(metering: Gpus) -> Iterator[Gpus]:
    """The four GPUs, without the faults of the test before."""
    metering.until_read()
    yield metering
    metering.simulator.clear()
    metering.simulator.set_mig(1, None)
    (metering.node.root / "state-agent" / "release").unlink(missing_ok=True)


@pytest.fixture
def writer(gpus: Gpus) -> Iterator[Workload]:
    """A process that writes requests on the first GPU."""
    workload = gpus.node.workload("bursts", "serve", "0", 4096)
    yield workload
    assert workload.end() == (0, "")


@pytest.mark.parametrize(("fault", "reason"), [("crash", "left_out"), ("vanish", "lost")])
def test_one_gpu_takes_the_process_with_it(gpus: Gpus, fault: str, reason: str) -> None:
    """It is left out, the others go on in a new process, and it is tried until it answers."""
    gpus.simulator.fault(fault, FAULTY)
    gpus.until_failing(FAULTY, reason)
    gpus.until_flowing(*HEALTHY)
    gpus.until_unattributed(FAULTY)
    gpus.simulator.clear()
    gpus.until_read()
    gpus.until_known(*ALL)
    assert gpus.look().failure(gpus.ids[FAULTY]) == ""


@pytest.mark.parametrize(
    ("fault", "sentence", "reason"),
    [
        ("hang", "none of 4 GPUs answers", "hanging"),
        ("crash", "SIGSEGV", ""),
        ("driver-mismatch", "the driver was upgraded", "driver_mismatch"),
        ("driver-unloaded", "driver is not loaded", "no_driver"),
    ],
)
def test_all_gpus_are_gone(
    gpus: Gpus, writer: Workload, fault: str, sentence: str, reason: str
) -> None:
    """Rings, settlement and /metrics go on; what no ring explains is unattributed meanwhile."""
    gpus.simulator.fault(fault)
    door, book = gpus.agent.door, gpus.agent.book
    gpus.agent.eventually(lambda: sentence in door.says(), f"it says: {sentence}")
    assert door.value("apportion_collector_success", collector="nvml") == 0
    assert door.value("apportion_collector_absent", collector="nvml") == 0
    if reason:
        gpus.agent.eventually(lambda: gpus.reason(FAULTY) == reason, f"the reason is {reason}")
    before = gpus.look().value("device_kernel_xid_errors_total", device=KERNELS) or 0
    with (gpus.node.root / "kmsg").open("a") as log:
        log.write("3,1,5000000,-;NVRM: Xid (PCI:0000:17:00): 79, GPU has fallen off the bus.\n")
    spans = book.count("span")
    writer.say(SPANS)
    gpus.agent.eventually(lambda: book.count("span") == spans + SPANS, "the spans are kept")
    gpus.until_unattributed(1, 2, 3)
    assert gpus.look().value("ledger_up") == 1
    gpus.agent.eventually(
        lambda: gpus.look().value("device_kernel_xid_errors_total", device=KERNELS) == before + 1,
        "the kernel tells of an XID although NVML is gone",
    )
    gpus.simulator.clear()
    gpus.until_read()
    gpus.until_known(*ALL)
    assert sentence not in door.says()


def test_a_driver_that_is_loaded_again(gpus: Gpus) -> None:
    """Whoever has NVML open must open it anew; counters begin again, and no energy is lost."""
    before = gpus.look()
    gpus.simulator.fault("driver-reload")

    def began_again() -> bool:
        now = gpus.look()
        return all(now.is_up(d) and now.energy(d) < before.energy(d) for d in gpus.ids)

    gpus.agent.eventually(began_again, "the counters are read after the driver was loaded")
    assert (gpus.look().value("nvml_restarts_total") or 0) > (
        before.value("nvml_restarts_total") or 0
    )
    gpus.until_known(*ALL)


def test_mig_is_changed(gpus: Gpus) -> None:
    """A GPU becomes other devices and one again; each of them has its own time and no other."""
    whole = gpus.ids[1]
    parts = {*gpus.simulator.set_mig(1, ["3g.40gb", "2g.20gb"]), f"{whole}/unallocated"}

    def shown() -> set[str]:
        return gpus.look().devices() - set(gpus.ids)

    gpus.agent.eventually(lambda: shown() == parts, "instances are devices")
    assert whole not in gpus.look().devices()
    gpus.agent.eventually(lambda: all(map(gpus.spent_ns, parts)), "instances are settled")
    gpus.simulator.set_mig(1, None)
    gpus.agent.eventually(lambda: gpus.look().devices() == set(gpus.ids), "the GPU is whole")
    gpus.until_known(*ALL)
    lives = gpus.agent.book.rows("select count(*) from device where device = ?", whole)
    assert lives == [(2,)]


def test_release(gpus: Gpus) -> None:
    """On request the agent holds no GPU, and says so; it takes them back when told to."""
    config = ("--config", gpus.node.root / "agent.yaml")
    done = gpus.node.run("release", "--for", "1h", *config)
    assert (done.returncode, done.stderr) == (0, "")
    assert "has let go of NVML until" in done.stdout
    assert gpus.agent.children() == []
    gpus.agent.eventually(lambda: "apportion release" in gpus.agent.door.says(), "it says why")
    gpus.until_unattributed(*ALL)
    gpus.agent.eventually(lambda: gpus.reason(FAULTY) == "released", "the reason is a word")
    done = gpus.node.run("release", "--end", *config)
    assert (done.returncode, done.stdout) == (0, "the agent reads NVML again\n")
    gpus.until_read()
    gpus.until_known(*ALL)
