"""One meter for each device of a host."""

from __future__ import annotations

from pathlib import Path

from apportion.agent.pipeline.ownership import DeviceLocks
from apportion.core.ids import DeviceId
from apportion.core.reading import DeviceInfo

ONE, TWO = DeviceId("GPU-1"), DeviceId("GPU-2/unallocated")


def test_the_first_agent_owns_and_the_next_takes_over(tmp_path: Path) -> None:
    """Two agents never meter one device; a dead one's devices are free at once."""
    first, second = DeviceLocks(tmp_path), DeviceLocks(tmp_path)
    assert first.own(ONE)
    assert first.own(ONE)
    assert not second.own(ONE)
    assert "another agent" in second.reason[ONE]
    assert second.own(TWO)
    first.close()
    assert second.own(ONE)
    assert ONE not in second.reason
    second.close()


def test_the_configuration_restricts(tmp_path: Path) -> None:
    """`own` names devices, whatever the mode says."""
    locks = DeviceLocks(tmp_path, only=[str(ONE)], pod=True)
    assert locks.own(ONE)
    assert not locks.own(TWO)
    locks.close()


def test_in_a_pod_rings_decide(tmp_path: Path) -> None:
    """A sidecar that sees all GPUs meters only those that its own pod uses."""
    locks = DeviceLocks(tmp_path, pod=True)
    assert not locks.own(ONE)
    assert "no ring of this pod" in locks.reason[ONE]
    locks.name([ONE])
    assert locks.own(ONE)
    assert not locks.own(TWO)
    locks.close()


def test_a_pod_is_shown_only_what_concerns_it(tmp_path: Path) -> None:
    """Its neighbours' GPUs on the node are nothing to it, nor a reason to call it degraded."""
    infos = {device: DeviceInfo(device, "a GPU", 0, "dcgm") for device in (ONE, TWO)}
    pod, whole = DeviceLocks(tmp_path, pod=True), DeviceLocks(tmp_path)
    assert (pod.of_this_agent(infos), pod.waits_for_rings) == ({}, True)
    pod.name([TWO])
    assert (set(pod.of_this_agent(infos)), pod.waits_for_rings) == ({TWO}, False)
    assert (whole.of_this_agent(infos), whole.waits_for_rings) == (infos, False)


def test_a_directory_that_cannot_be_made_is_a_reason(tmp_path: Path) -> None:
    """Nothing is metered twice because a lock could not be taken."""
    (tmp_path / "file").write_text("")
    locks = DeviceLocks(tmp_path / "file")
    assert not locks.own(ONE)
    assert "cannot open" in locks.reason[ONE]


def test_a_device_is_taken_only_where_another_agent_holds_it(tmp_path: Path) -> None:
    """What nobody meters yet is resumed later; what another one meters is given up."""
    pod, other = DeviceLocks(tmp_path, pod=True), DeviceLocks(tmp_path)
    assert not pod.own(ONE)
    assert not pod.is_taken(ONE)
    assert other.own(ONE)
    pod.name([ONE])
    assert not pod.own(ONE)
    assert pod.is_taken(ONE)
    other.close()
    assert pod.own(ONE)
    assert not pod.is_taken(ONE)
    pod.close()
