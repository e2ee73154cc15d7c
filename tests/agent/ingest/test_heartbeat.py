"""The agent's own file."""

from __future__ import annotations

import json
from pathlib import Path

from apportion.agent.ingest import Heartbeat
from apportion.client import layout
from apportion.core.clock import ManualClock
from apportion.core.ids import RingId


def heartbeat(directory: Path, **requests: object) -> Heartbeat:
    clock = ManualClock(77)
    return Heartbeat(directory, clock, version="1.2.3", pid=42, requests=lambda: requests)


def test_a_beat_is_whole_json(tmp_path: Path) -> None:
    """Protects the clients' self-test, which reads these names."""
    assert heartbeat(tmp_path, profile={"step": 5}).beat() is None
    path = tmp_path / layout.AGENT_FILE
    assert json.loads(path.read_bytes()) == {
        "heartbeat_monotonic_ns": 77,
        "pid": 42,
        "version": "1.2.3",
        "requests": {"profile": {"step": 5}},
        "unbound": {},
        "unread": {},
    }
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_beat_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    """Protects readers: they see the old file or the new one, never a part."""
    beats = heartbeat(tmp_path)
    beats.beat()
    reader = (tmp_path / layout.AGENT_FILE).open("rb")
    heartbeat(tmp_path, a=1).beat()
    assert json.loads(reader.read())["requests"] == {}
    reader.close()
    assert [path.name for path in tmp_path.iterdir()] == [layout.AGENT_FILE]


def test_a_link_in_its_place_is_replaced_not_followed(tmp_path: Path) -> None:
    """Protects other files from a workload that plants a link."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / layout.AGENT_FILE).symlink_to(victim)
    assert heartbeat(tmp_path).beat() is None
    assert victim.read_bytes() == b"precious"


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    """Protects the agent: a missing or blocked directory is a reason, not an error."""
    reason = heartbeat(tmp_path / "absent").beat()
    assert reason is not None
    assert "No such file or directory" in reason
    (tmp_path / layout.AGENT_FILE).mkdir()
    assert "directory" in (heartbeat(tmp_path).beat() or "")
    assert [path.name for path in tmp_path.iterdir()] == [layout.AGENT_FILE]


def test_stopping_removes_the_file(tmp_path: Path) -> None:
    """Protects workloads from waiting for an agent that is gone; twice is harmless."""
    beats = heartbeat(tmp_path)
    beats.beat()
    beats.stop()
    beats.stop()
    assert not list(tmp_path.iterdir())


def test_pods_get_it_too_and_cannot_spoil_it(tmp_path: Path) -> None:
    """A pod that blocks its own file is without a heartbeat; nobody else is."""
    own, good, bad = (tmp_path / name for name in ("own", "good", "bad"))
    for path in (own, good, bad / layout.AGENT_FILE / "in-the-way"):
        path.mkdir(parents=True)
    beats = Heartbeat(
        own, ManualClock(77), version="1.2.3", pid=42, others=lambda: [bad, good, tmp_path / "gone"]
    )
    assert beats.beat() is None
    files = [path / layout.AGENT_FILE for path in (own, good)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert [path.name for path in bad.iterdir()] == [layout.AGENT_FILE]
    beats.stop()
    assert not any(path.exists() for path in files)


def test_each_directory_is_told_of_its_own_rings_without_devices(tmp_path: Path) -> None:
    """Protects a pod's names from other pods, and workloads from a file that grows."""
    own, pod = tmp_path / "own", tmp_path / "pod"
    rings = [RingId(f"{number:032x}") for number in range(30)]
    for folder, ring in ((own, rings[0]), *((pod, ring) for ring in rings[1:])):
        folder.mkdir(exist_ok=True)
        (folder / f"{ring}.ring").touch()
    beats = Heartbeat(own, ManualClock(77), version="1", pid=42, others=lambda: [pod])
    beats.beat({ring: f"workload 'w', pid {ring[-2:]}" for ring in rings})
    told = [json.loads((path / layout.AGENT_FILE).read_bytes())["unbound"] for path in (own, pod)]
    assert told[0] == {rings[0]: "workload 'w', pid 00"}
    assert len(told[1]) == 20
    assert not told[1].keys() & told[0].keys()
