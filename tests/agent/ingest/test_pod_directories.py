"""Rings in the volumes of pods: found, followed past their pod's end, and kept apart."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agent.ingest.writer import BOOT_ID, RingWriter

from apportion.agent.ingest import DirectoryPoll, DirectoryState, PodDirectories, RingDirectory
from apportion.agent.ingest.pod_directories import VOLUME
from apportion.client import layout
from apportion.core.clock import ManualClock
from apportion.core.ids import RingId
from apportion.core.units import NS_PER_HOUR, NS_PER_SECOND


class Kubelet:
    """A directory of pods as a kubelet lays it out, and an agent beside it."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock(NS_PER_HOUR)
        self.own = folder / "rings"
        self.pods = folder / "pods"
        self.pods.mkdir()
        self.writers: list[RingWriter] = []
        self.made: list[Path] = []
        self.agent = PodDirectories(self.follow(self.own), self.pods, self.clock, self.of_pod)

    def follow(self, path: Path, *, make: bool = True) -> RingDirectory:
        return RingDirectory(path, self.clock, boot_id=BOOT_ID, make=make)

    def of_pod(self, path: Path, own: RingDirectory) -> RingDirectory:
        assert own.state is not None
        self.made.append(path)
        return self.follow(path, make=False)

    def volume(self, pod: str) -> Path:
        path = self.pods / pod / VOLUME
        path.mkdir(parents=True)
        return path

    def ring(self, directory: Path, number: int) -> RingWriter:
        made = RingWriter(directory / f"{number:032x}{layout.FILE_SUFFIX}", lock=True)
        self.writers.append(made)
        return made

    def end(self, writer: RingWriter) -> None:
        writer.set_header("closed_ns", 1_500)
        self.writers.remove(writer)
        writer.close()

    def poll(self, times: int = 8) -> list[DirectoryPoll]:
        polls: list[DirectoryPoll] = []
        for _ in range(times):
            self.clock.advance(NS_PER_SECOND // 4)
            polls.append(self.agent.poll())
        return polls


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[Kubelet]:
    made = Kubelet(tmp_path)
    yield made
    made.agent.close()
    for writer in made.writers:
        writer.close()


def ring_id(number: int) -> RingId:
    return RingId(f"{number:032x}")


def accepted(polls: list[DirectoryPoll], number: int) -> int:
    return sum(
        len(poll.polls[ring_id(number)].records) for poll in polls if ring_id(number) in poll.polls
    )


def attached(polls: list[DirectoryPoll]) -> list[RingId]:
    return [identity.ring for poll in polls for identity in poll.attached]


def test_all_directories_are_read_as_one(kubelet: Kubelet) -> None:
    """Two pods and a process of the node itself; a pod without the volume is no trouble."""
    (kubelet.pods / "plain" / "volumes").mkdir(parents=True)
    kubelet.ring(kubelet.own, 1).write(1)
    kubelet.ring(kubelet.volume("pod-a"), 2).write(2)
    polls = kubelet.poll()
    kubelet.ring(kubelet.volume("pod-b"), 3).write(3)
    polls += kubelet.poll()
    assert sorted(attached(polls)) == [ring_id(1), ring_id(2), ring_id(3)]
    assert [accepted(polls, number) for number in (1, 2, 3)] == [1, 2, 3]
    assert {path.parents[2].name for path in kubelet.agent.paths} == {"pod-a", "pod-b"}
    assert (polls[-1].state, polls[-1].reason) == (DirectoryState.READY, "")


def test_a_deleted_pod_is_read_to_its_end(kubelet: Kubelet) -> None:
    """Its files are gone from the disk before the agent has read what they say."""
    volume = kubelet.volume("pod-a")
    writer = kubelet.ring(volume, 7)
    kubelet.poll()
    writer.write(5)
    kubelet.end(writer)
    shutil.rmtree(kubelet.pods / "pod-a")
    polls = kubelet.poll(16)
    assert accepted(polls, 7) == 5
    assert [dead.ring for poll in polls for dead in poll.died] == [ring_id(7)]
    assert polls[-1].polls[ring_id(7)].finished
    assert kubelet.agent.paths == ()
    kubelet.agent.reap([ring_id(7)])
    assert ring_id(7) not in kubelet.poll()[-1].polls
    assert not (kubelet.pods / "pod-a").exists()
    # The same pod's directory again is another one.
    kubelet.volume("pod-a")
    kubelet.poll()
    assert 2 == len(kubelet.made)


def test_a_finished_ring_is_deleted_where_the_agent_may(kubelet: Kubelet) -> None:
    """Rings are memory of the pod: one that was read out gives it back."""
    volume = kubelet.volume("pod-a")
    writer = kubelet.ring(volume, 7)
    kubelet.poll()
    kubelet.end(writer)
    kubelet.poll(16)
    assert list(volume.iterdir())
    kubelet.agent.reap([ring_id(7)])
    assert not list(volume.iterdir())


def test_the_same_id_twice_is_read_once(kubelet: Kubelet) -> None:
    """A pod cannot speak for another one's ring, nor make its spans count twice."""
    kubelet.ring(kubelet.volume("pod-a"), 7).write(2)
    polls = kubelet.poll()
    kubelet.ring(kubelet.volume("pod-b"), 7).write(9)
    polls += kubelet.poll()
    assert attached(polls) == [ring_id(7)]
    assert accepted(polls, 7) == 2


def test_refusals_stay_counted_when_their_pod_is_gone(kubelet: Kubelet) -> None:
    """A counter on /metrics never goes back."""
    bad = kubelet.volume("pod-a") / f"{9:032x}{layout.FILE_SUFFIX}"
    bad.symlink_to("/etc/passwd")
    before = dict(kubelet.poll()[-1].refused_total)
    assert 1 == sum(before.values())
    assert 1 == len(kubelet.agent.refused)
    shutil.rmtree(kubelet.pods / "pod-a")
    assert dict(kubelet.poll()[-1].refused_total) == before
    assert not kubelet.agent.refused


def test_without_the_kubelets_directory(kubelet: Kubelet) -> None:
    """The node's own rings go on, and a sentence says what to mount."""
    kubelet.pods.rmdir()
    kubelet.ring(kubelet.own, 1).write(1)
    polls = kubelet.poll()
    assert accepted(polls, 1) == 1
    assert "mount the kubelet's directory of pods here" in polls[-1].reason


def test_what_a_poll_may_hold_is_shared(kubelet: Kubelet) -> None:
    """A hundred pods hold no more memory than one."""
    for number in range(100):
        kubelet.ring(kubelet.volume(f"pod-{number}"), number + 1)
    polls = kubelet.poll(8)
    assert 100 == len(polls[-1].polls)
    assert sum(each._rows_at_once for each in kubelet.agent._all()) <= 1 << 16
