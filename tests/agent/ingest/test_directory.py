"""A directory of rings: found, followed, read out, deleted; bad ones kept apart."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.agent.ingest.writer import BOOT_ID, RingWriter

from apportion.agent.ingest import (
    DirectoryPoll,
    DirectoryState,
    LossWindow,
    Position,
    Refusal,
    RingDirectory,
)
from apportion.agent.ingest.directory import INCOMPLETE_NS
from apportion.agent.ingest.ring import LOOK_NS
from apportion.client import layout
from apportion.core.clock import ManualClock
from apportion.core.ids import RingId
from apportion.core.units import NS_PER_HOUR, NS_PER_SECOND

BAD_MEMBERS = (
    Refusal.NOT_REGULAR,
    Refusal.HARD_LINKED,
    Refusal.WRONG_SIZE,
    Refusal.BAD_HEADER,
    Refusal.UNKNOWN_VERSION,
    Refusal.OTHER_BOOT,
)


class Rings:
    """A ring directory that is polled by hand."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock(NS_PER_HOUR)
        self.path = folder / "rings"
        self.open: list[RingDirectory] = []
        self.writers: list[RingWriter] = []

    def agent(self, **options: object) -> RingDirectory:
        """Start an agent's directory."""
        chosen = {"boot_id": BOOT_ID, **options}
        made = RingDirectory(self.path, self.clock, **chosen)  # type: ignore[arg-type]
        self.open.append(made)
        return made

    def ring(self, number: int, **options: object) -> RingWriter:
        """Make a ring with a living writer."""
        name = f"{number:032x}{layout.FILE_SUFFIX}"
        chosen = {"lock": True, **options}
        made = RingWriter(self.path / name, **chosen)  # type: ignore[arg-type]
        self.writers.append(made)
        return made

    def poll(self, directory: RingDirectory, times: int = 1) -> list[DirectoryPoll]:
        """Poll, a look apart."""
        polls: list[DirectoryPoll] = []
        for _ in range(times):
            self.clock.advance(2 * LOOK_NS)
            polls.append(directory.poll())
        return polls


@pytest.fixture
def rings(tmp_path: Path) -> Iterator[Rings]:
    made = Rings(tmp_path)
    yield made
    for directory in made.open:
        directory.close()
    for writer in made.writers:
        writer.close()


def ring_id(number: int) -> RingId:
    return RingId(f"{number:032x}")


def accepted(polls: list[DirectoryPoll], number: int) -> list[int]:
    return [
        sequence
        for poll in polls
        if ring_id(number) in poll.polls
        for sequence in poll.polls[ring_id(number)].records["sequence"].tolist()
    ]


def test_the_first_to_come_makes_the_directory(rings: Rings) -> None:
    """Protects rights: workloads share a group, and none removes another's ring."""
    directory = rings.agent(gid=os.getgid())
    assert rings.path.stat().st_mode & 0o7777 == 0o3770
    (poll,) = rings.poll(directory)
    assert (poll.state, poll.reason) == (DirectoryState.READY, "")


def test_a_directory_of_somebody_else_is_left_as_it_is(rings: Rings) -> None:
    """Protects a pod's own directory, which belongs to its fsGroup."""
    rings.path.mkdir(mode=0o750)
    rings.agent()
    assert rings.path.stat().st_mode & 0o7777 == 0o750


def test_a_ring_is_attached_read_and_read_out(rings: Rings) -> None:
    """Protects the whole life of a ring, from its identity to its file's end."""
    directory = rings.agent()
    writer = rings.ring(
        7,
        identity={"workload": "llama", "run": "r1", "attempt": "2", "rank": 3, "tags": {"a": "b"}},
        init_ns=900,
    )
    writer.write(3)
    polls = rings.poll(directory, 6)
    (identity,) = (identity for poll in polls for identity in poll.attached)
    assert (identity.ring, identity.pid, identity.uid) == (ring_id(7), os.getpid(), os.getuid())
    assert (identity.workload, identity.run, identity.attempt) == ("llama", "r1", "2")
    assert (identity.said.rank, identity.said.tags) == (3, (("a", "b"),))
    assert (identity.init_ns, identity.process_start_ns) == (900, None)
    assert identity.host_pid == os.getpid()
    assert accepted(polls, 7) == [1, 2, 3]
    writer.set_header("closed_ns", 1_500)
    rings.writers.remove(writer)
    writer.close()
    polls = rings.poll(directory, 3)
    (died,) = (died for poll in polls for died in poll.died)
    assert (died.ring, died.closed_ns) == (ring_id(7), 1_500)
    assert polls[-1].polls[ring_id(7)].finished
    directory.reap([ring_id(7), ring_id(8)])
    assert not writer.path.exists()
    assert not rings.poll(directory)[0].polls


def test_a_killed_process_is_seen_across_processes(rings: Rings) -> None:
    """Protects lost spans: the kernel drops the lock of a killed writer, whatever its state."""
    directory = rings.agent()
    program = (
        "import sys, time; from pathlib import Path\n"
        "from tests.agent.ingest.writer import RingWriter\n"
        "ring = RingWriter(Path(sys.argv[1]), lock=True)\n"
        "ring.write(4); ring.apply(*ring.open_stores(0, 500, 99))\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    path = rings.path / f"{ring_id(1)}.ring"
    paths = os.pathsep.join([str(Path(__file__).parents[3]), *filter(None, sys.path)])
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        polls = rings.poll(directory, 5)
        assert [identity.host_pid for poll in polls for identity in poll.attached] == [process.pid]
        assert accepted(polls, 1) == [1, 2, 3, 4]
        process.kill()
        process.wait()
    polls = rings.poll(directory, 3)
    (died,) = (died for poll in polls for died in poll.died)
    assert died.closed_ns is None
    assert polls[-1].polls[ring_id(1)].open_spans["number"].tolist() == [99]


def test_an_unfinished_ring_is_not_reaped(rings: Rings) -> None:
    """Protects records that were not read from an early call."""
    directory = rings.agent()
    writer = rings.ring(1)
    rings.poll(directory, 3)
    directory.reap([ring_id(1)])
    writer.write(1)
    assert accepted(rings.poll(directory, 3), 1) == [1]


def test_a_ring_read_out_stays_where_the_directory_is_not_ours(
    rings: Rings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects a pod's files, and their records from being read a second time."""
    directory = rings.agent()
    writer = rings.ring(1)
    writer.write(2)
    rings.poll(directory, 2)
    monkeypatch.setattr(directory._scan, "owned", False)
    rings.writers.remove(writer)
    writer.close()
    rings.poll(directory, 3)
    directory.reap([ring_id(1)])
    assert writer.path.exists()
    rings.clock.advance(5 * NS_PER_SECOND)
    polls = rings.poll(directory, 4)
    assert not polls[-1].polls
    assert not polls[-1].refused


def test_a_restart_goes_on_from_the_stored_position(rings: Rings) -> None:
    """Protects exactly-once across the agent's own restart."""
    first = rings.agent()
    writer = rings.ring(1)
    writer.write(4)
    position = rings.poll(first, 5)[-1].polls[ring_id(1)].position
    assert position.read == 4
    first.close()
    writer.write(2)
    second = rings.agent(restore={ring_id(1): position})
    assert accepted(rings.poll(second, 5), 1) == [5, 6]


def test_a_deleted_ring_is_read_to_its_end(rings: Rings) -> None:
    """Protects the last spans of a pod whose files are gone."""
    directory = rings.agent()
    writer = rings.ring(1)
    rings.poll(directory, 2)
    writer.path.unlink()
    writer.write(2)
    assert accepted(rings.poll(directory, 4), 1) == [1, 2]
    rings.writers.remove(writer)
    writer.close()
    poll = rings.poll(directory, 3)[-1]
    assert poll.polls[ring_id(1)].finished
    directory.reap([ring_id(1)])
    assert not rings.poll(directory)[0].polls


def test_a_ring_without_magic_is_waited_for(rings: Rings) -> None:
    """Protects a ring that is just being made, its header's late stores included."""
    directory = rings.agent()
    writer = rings.ring(1, complete=False, pid=1)
    assert [poll.waiting for poll in rings.poll(directory, 3)] == [1, 1, 1]
    writer.set_header("magic", layout.MAGIC)
    rings.poll(directory)
    writer.set_header("pid", 4321)  # was stored before the magic, but came after it
    (poll,) = rings.poll(directory)
    assert [identity.pid for identity in poll.attached] == [4321]


def test_a_ring_whose_writer_died_before_its_magic_is_refused(rings: Rings) -> None:
    """Protects descriptors from files that will never be rings."""
    directory = rings.agent()
    rings.ring(1, complete=False, lock=False)
    rings.ring(2, complete=False)
    rings.poll(directory)
    rings.clock.advance(INCOMPLETE_NS)
    polls = rings.poll(directory, 2)
    assert [ring.reason for poll in polls for ring in poll.refused] == [Refusal.INCOMPLETE]
    assert polls[-1].waiting == 1


def make_bad(rings: Rings, reason: Refusal, path: Path) -> None:
    """A member of the directory that must be refused for `reason`."""
    other = rings.path.parent / "other"
    if reason is Refusal.NOT_REGULAR:
        other.write_bytes(b"secret")
        path.symlink_to(other)
    elif reason is Refusal.HARD_LINKED:
        other.write_bytes(bytes(9_000))
        os.link(other, path)
    elif reason is Refusal.WRONG_SIZE:
        rings.ring(1).path.rename(path)
        os.truncate(path, 20_000)
    elif reason is Refusal.BAD_HEADER:
        RingWriter(path, record_capacity=1 << 21).close()
    elif reason is Refusal.UNKNOWN_VERSION:
        RingWriter(path, version=2).close()
    else:
        RingWriter(path, boot_id=bytes(reversed(BOOT_ID))).close()


@pytest.mark.parametrize("reason", BAD_MEMBERS)
def test_a_bad_ring_is_refused_once_and_harms_no_other(rings: Rings, reason: Refusal) -> None:
    """Protects the good rings: each bad one gives one clear refusal and a count."""
    directory = rings.agent()
    good = rings.ring(2)
    good.write(2)
    make_bad(rings, reason, rings.path / f"{ring_id(5)}.ring")
    polls = rings.poll(directory, 5)
    rings.clock.advance(3 * NS_PER_SECOND)
    polls += rings.poll(directory, 2)
    (refused,) = (ring for poll in polls for ring in poll.refused)
    assert (refused.ring, refused.reason, refused.followed) == (ring_id(5), reason, False)
    assert refused.message.startswith(f"{ring_id(5)}.ring: ")
    assert dict(polls[-1].refused_total) == {reason: 1}
    assert directory.refused == (refused,)
    assert accepted(polls, 2) == [1, 2]


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_folder(path: Path) -> None:
    path.mkdir()


def make_device_link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def make_socket(path: Path) -> None:
    # Bound under a short relative name: a socket's address is at most 108 bytes.
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    "make", [make_fifo, make_folder, make_device_link, make_dangling_link, make_socket]
)
def test_what_is_no_file_is_refused_without_waiting(
    rings: Rings, make: Callable[[Path], None]
) -> None:
    """Protects the poll from blocking on, or following, a hostile member of the directory."""
    directory = rings.agent()
    make(rings.path / f"{ring_id(5)}.ring")
    (refused,) = (ring for poll in rings.poll(directory, 4) for ring in poll.refused)
    assert refused.reason is Refusal.NOT_REGULAR


@pytest.mark.parametrize("size", [0, 1, 8, 4_096, 4_097, 500_000])
def test_random_bytes_are_refused_or_waited_for(rings: Rings, size: int) -> None:
    """Protects the poll from files that are no rings at all."""
    directory = rings.agent()
    path = rings.path / f"{ring_id(5)}.ring"
    path.write_bytes(os.urandom(size))
    rings.poll(directory, 3)
    rings.clock.advance(INCOMPLETE_NS)
    polls = rings.poll(directory, 2)
    assert [ring.reason for poll in polls for ring in poll.refused] == [Refusal.INCOMPLETE]


def test_a_header_that_names_another_ring_is_refused(rings: Rings) -> None:
    """Protects the ledger's key from a ring that takes another's id."""
    directory = rings.agent()
    rings.ring(1, ring_id=bytes(16))
    polls = rings.poll(directory, 3)
    assert [ring.reason for poll in polls for ring in poll.refused] == [Refusal.BAD_HEADER]


def test_a_ring_that_goes_bad_is_put_in_quarantine(rings: Rings) -> None:
    """Protects the other rings from one that is truncated while it is read."""
    directory = rings.agent()
    bad, good = rings.ring(1), rings.ring(2)
    bad.write(2)
    rings.poll(directory, 4)
    os.truncate(bad.path, 100)
    good.write(3)
    rings.clock.advance(3 * NS_PER_SECOND)
    polls = rings.poll(directory, 5)
    (refused,) = (ring for poll in polls for ring in poll.refused)
    assert (refused.ring, refused.reason, refused.followed) == (
        ring_id(1),
        Refusal.TRUNCATED,
        True,
    )
    assert accepted(polls, 2) == [1, 2, 3]
    assert set(polls[-1].polls) == {ring_id(2)}


def test_rings_of_other_users_are_refused(rings: Rings) -> None:
    """Protects against rings of users who are not to be metered."""
    directory = rings.agent(allowed_uids=frozenset({os.getuid() + 1}))
    rings.ring(1)
    polls = rings.poll(directory, 2)
    assert [ring.reason for poll in polls for ring in poll.refused] == [Refusal.FOREIGN_OWNER]


def test_too_many_rings_are_counted_and_followed_when_there_is_room(rings: Rings) -> None:
    """Protects descriptors from a flood of rings, and forgets no ring for ever."""
    directory = rings.agent(most_rings=2)
    writers = [rings.ring(number) for number in range(4)]
    polls = rings.poll(directory, 3)
    assert [ring.reason for poll in polls for ring in poll.refused] == [Refusal.TOO_MANY] * 2
    assert set(polls[-1].polls) == {ring_id(0), ring_id(1)}
    rings.writers.remove(writers[0])
    writers[0].close()
    rings.poll(directory, 3)
    directory.reap([ring_id(0)])
    rings.clock.advance(2 * NS_PER_SECOND)
    polls = rings.poll(directory, 3)
    assert set(polls[-1].polls) == {ring_id(1), ring_id(2)}
    assert dict(polls[-1].refused_total) == {Refusal.TOO_MANY: 2}


def test_other_names_are_none_of_its_business(rings: Rings) -> None:
    """Protects the agent's own file and temporary files from being taken for rings."""
    directory = rings.agent()
    for name in (
        layout.AGENT_FILE,
        "x.ring",
        f"{ring_id(1)}.ring.tmp",
        f"{ring_id(10)}.ring".upper(),
        f"{'g' * 32}.ring",
    ):
        (rings.path / name).write_bytes(bytes(5_000))
    (poll,) = rings.poll(directory)
    assert (poll.waiting, poll.refused) == (0, ())


def test_a_directory_that_vanishes_is_a_state(rings: Rings) -> None:
    """Protects open rings: they are read on, and the directory is made again."""
    directory = rings.agent()
    writer = rings.ring(1)
    rings.poll(directory, 2)
    shutil.rmtree(rings.path)
    writer.write(1)
    (gone,) = rings.poll(directory)
    assert gone.state is DirectoryState.ABSENT
    assert str(rings.path) in gone.reason
    polls = rings.poll(directory, 3)
    assert accepted(polls, 1) == [1]
    assert polls[-1].state is DirectoryState.READY
    rings.ring(2)
    assert ring_id(2) in rings.poll(directory, 2)[-1].polls


def test_a_file_in_place_of_the_directory_is_a_state(rings: Rings) -> None:
    """Protects the agent from a path that is no directory."""
    rings.path.write_bytes(b"")
    (poll,) = rings.poll(rings.agent())
    assert poll.state is DirectoryState.UNREADABLE
    assert str(rings.path) in poll.reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every directory")
def test_an_unreadable_directory_is_a_state(rings: Rings) -> None:
    """Protects the agent from a directory that it may not list."""
    directory = rings.agent()
    rings.path.chmod(0)
    (poll,) = rings.poll(directory)
    assert poll.state is DirectoryState.UNREADABLE


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_an_unreadable_directory_is_a_state_for_a_plain_user(rings: Rings) -> None:
    """Protects the agent of a plain user from a directory and a ring that it may not read."""
    rings.path.mkdir(mode=0o700)
    for folder in rings.path.parents:
        if folder.stat().st_uid == 0 and folder.name.startswith(("pytest", "test_", "popen-")):
            folder.chmod(0o755)
    directory = rings.agent()
    rings.ring(1).path.chmod(0o600)
    os.seteuid(65_534)
    try:
        (closed,) = rings.poll(directory)
        os.seteuid(0)
        rings.path.chmod(0o777)
        os.seteuid(65_534)
        (opened,) = rings.poll(directory)
    finally:
        os.seteuid(0)
    assert closed.state is DirectoryState.UNREADABLE
    assert "access" in closed.reason
    assert opened.state is DirectoryState.READY
    assert [ring.reason for ring in opened.refused] == [Refusal.NO_ACCESS]


def test_a_step_of_the_wall_clock_is_no_namespace(rings: Rings) -> None:
    """Protects spans from being moved by the seconds that NTP once corrected."""
    directory = rings.agent()
    rings.poll(directory)
    before_ns = rings.clock.realtime_ns()
    rings.clock.step_realtime(-NS_PER_HOUR)
    rings.poll(directory)
    rings.ring(
        1,
        created_monotonic_ns=rings.clock.monotonic_ns(),
        created_realtime_ns=before_ns + NS_PER_SECOND // 50,
        lock=False,
    )
    (identity,) = (one for poll in rings.poll(directory, 3) for one in poll.attached)
    assert identity.clock_offset_ns == 0


def test_a_time_namespace_is_computed(rings: Rings, tmp_path: Path) -> None:
    """Protects spans of a container whose clock started elsewhere."""
    directory = rings.agent(proc=tmp_path / "no-proc")
    rings.poll(directory)
    rings.ring(
        1,
        created_monotonic_ns=5 * NS_PER_SECOND,
        created_realtime_ns=rings.clock.realtime_ns(),
    ).write(
        1,
        start_ns=5 * NS_PER_SECOND,
        end_ns=5 * NS_PER_SECOND,
        arrival_ns=0,
        scheduled_ns=0,
        first_token_ns=0,
    )
    made_ns = rings.clock.monotonic_ns()
    polls = rings.poll(directory, 5)
    (identity,) = (one for poll in polls for one in poll.attached)
    assert identity.clock_offset_ns == made_ns - 5 * NS_PER_SECOND
    ends_ns = [
        end for poll in polls for one in poll.polls.values() for end in one.records["end_ns"]
    ]
    assert ends_ns == [made_ns]


def test_the_loss_of_an_overrun_is_reported_by_ring(rings: Rings) -> None:
    """Protects the loss figure on its way through the directory."""
    directory = rings.agent()
    writer = rings.ring(1, capacity=4)
    writer.write(10)
    polls = rings.poll(directory, 5)
    windows = [
        window for poll in polls for one in poll.polls.values() for window in one.loss_windows
    ]
    assert windows == [LossWindow(ring_id(1), 1, 1_075, 6)]
    assert polls[-1].polls[ring_id(1)].position == Position(read=10, lost=6, end_ns=1_105)
