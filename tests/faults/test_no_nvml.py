"""No NVML library where the configuration asks for NVML."""

from __future__ import annotations

from tests.faults.node import Node

SPANS = 40


def test_spans_are_kept_without_a_device(node: Node) -> None:
    """The agent says what is missing and keeps the spans; with the library back it meters."""
    broken = node.root / "broken"
    broken.mkdir()
    library = broken / "libnvidia-ml.so.1"
    library.write_bytes(b"this is no library")
    agent = node.agent(variables={"LD_LIBRARY_PATH": str(broken)}).until_ready()
    agent.eventually(lambda: "collector nvml" in agent.door.says(), "it says what is missing")
    assert agent.door.value("apportion_collector_success", collector="nvml") == 0
    assert agent.door.value("apportion_collector_absent", collector="nvml") == 0
    assert agent.door.value("apportion_device_info") is None
    absent = "apportion_collector_absent"
    agent.eventually(lambda: agent.door.value(absent, collector="slurm") == 1, "no Slurm here")
    assert "collector slurm" not in agent.door.says()
    writer = node.workload("bursts", "serve", "0", 4096)
    writer.say(SPANS)
    agent.eventually(lambda: agent.book.count("span") == SPANS, "the spans are kept")
    agent.eventually(lambda: agent.door.value("apportion_rings_unbound") == 1, "it is unbound")
    assert agent.book.count("charge") == agent.book.count("accrual") == 0

    library.unlink()
    library.symlink_to(node.library)
    agent.eventually(lambda: agent.book.count("settlement") > 0, "the devices are metered")
    agent.eventually(lambda: agent.door.value("apportion_rings_unbound") == 0, "it is bound")
    assert "collector nvml" not in agent.door.says()
    writer.say(SPANS)
    agent.eventually(lambda: agent.book.count("span") == 2 * SPANS, "spans go on")
    assert writer.end() == (0, "")
    assert agent.stop() == 0, agent.log
    assert agent.book.faults() == []
