"""Ring files: made whole or not at all, locked, bounded, and byte for byte what the layout says."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.client.conftest import Run, until
from tests.client.decoded import decode, only, rings, unpacked

from apportion import client
from apportion.client import layout, lifetime, phase, records, serving, span, training
from apportion.client.process import Process
from apportion.client.ring import Facts, Ring
from apportion.client.session import session

GOLDEN = Path(__file__).parent / "golden" / "version-1.txt"
FACTS = Facts(
    ring_id=bytes(range(16)),
    process=Process(
        pid=4242, boot_id=bytes(range(16, 32)), start_ticks=777, start_ns=7_770_000_000
    ),
    init_ns=8_000_000_000,
    created_monotonic_ns=9_000_000_000,
    created_realtime_ns=1_800_000_000_000_000_000,
    ready_ns=8_500_000_000,
    identity=b'{"attempt":"1","run":"run","workload":"golden"}',
)


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    """A small ring with known facts, which the client of this test writes."""
    made = Ring.create(str(tmp_path), FACTS, 8)
    session.adopt(made)
    yield made
    made.forget()


def raw_of(ring: Ring) -> bytes:
    """The file's bytes, through a process that is not the writer: our opening it drops our lock."""
    return subprocess.run(["cat", ring.path], capture_output=True, check=True).stdout


def dumped(raw: bytes) -> str:
    """Rows of 16 bytes that are not all zero, by offset: a binary that a review can read."""
    rows = (raw[at : at + 16] for at in range(0, len(raw), 16))
    return "".join(f"{at * 16:08x} {row.hex(' ', 8)}\n" for at, row in enumerate(rows) if any(row))


def test_golden_bytes(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of version 1 never change: agents of every release read them."""
    ticks = iter(range(10_000_000_000, 20_000_000_000, 1_000_000))
    for module in (lifetime, phase, serving, span, training):
        monkeypatch.setattr(module, "monotonic_ns", ticks.__next__)
    facts = records.ThreadFacts()
    facts.native_id, facts.tail = (
        99,
        facts.tail.replace(struct.pack("@Q", facts.native_id), struct.pack("@Q", 99)),
    )
    monkeypatch.setattr(records.threads, "facts", facts)

    with client.step(7) as seventh:
        with seventh.phase("forward"):
            pass
        seventh.add(tokens=8192, samples=4, micro_batches=2)
        with client.checkpoint():
            pass
    with client.step(8):
        pass
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with client.request(
        "request-1", tenant="search", model="llama", adapter="lora", traceparent=parent
    ) as served:
        served.scheduled()
        served.add(input_tokens=512, cached_input_tokens=128)
        served.first_token()
        served.add(output_tokens=64)
    for _ in range(2):
        with client.request("x" * 63, tenant="search") as served:
            served.add(input_tokens=5, output_tokens=6)
    running = client.request("open", tenant="chat", model="llama").start()
    running.scheduled()

    assert GOLDEN.read_text() == dumped(raw_of(ring))


def test_golden_means_what_was_said() -> None:
    """The golden file decodes to what the test above did: the bytes are right, not only stable."""
    raw = bytearray(layout.file_bytes(8))
    for line in GOLDEN.read_text().splitlines():
        at, *groups = line.split(" ")
        row = bytes.fromhex("".join(groups))
        raw[int(at, 16) : int(at, 16) + 16] = row
    found = decode(bytes(raw))

    assert (layout.MAGIC, layout.VERSION) == (found.header["magic"], found.header["version"])
    assert [
        ("phase", "ok", 7),
        ("phase", "ok", 11),
        ("step", "ok", 0),
        ("step", "ok", 0),
        ("request", "ok", 0),
        ("request", "ok", 0),
        ("request", "ok", 0),
    ] == [
        (
            {number: name for name, number in layout.KINDS.items()}[record["kind"]],
            {number: name for name, number in layout.STATUSES.items()}[record["status"]],
            record["phase"],
        )
        for record in found.records
    ]
    assert [1, 2, 3, 4, 5, 6, 7] == [record["sequence"] for record in found.records]
    assert {record["thread_id"] for record in found.records} == {99}
    (running,) = found.open_slots
    assert (
        "request"
        == {number: name for name, number in layout.KINDS.items()}[
            unpacked(running["packed"])["kind"]
        ]
    )
    assert {(1, "other"), (1, "search"), (1, "llama"), (1, "lora"), (1, "chat")} == set(
        found.words.values()
    )


def test_header_says_what_was_given(ring: Ring) -> None:
    """The header carries the facts and the layout's own sizes, the magic included."""
    found = decode(raw_of(ring))

    assert {
        "magic": layout.MAGIC,
        "version": layout.VERSION,
        "header_bytes": layout.HEADER_BYTES,
        "record_bytes": layout.RECORD_BYTES,
        "record_capacity": 8,
        "word_bytes": layout.WORD_BYTES,
        "word_capacity": layout.WORD_CAPACITY,
        "open_slot_bytes": layout.OPEN_SLOT_BYTES,
        "open_slot_capacity": layout.OPEN_SLOT_CAPACITY,
        "ring_id": FACTS.ring_id,
        "boot_id": FACTS.process.boot_id,
        "pid": 4242,
        "process_start_ticks": 777,
        "process_start_ns": 7_770_000_000,
        "init_ns": FACTS.init_ns,
        "created_monotonic_ns": FACTS.created_monotonic_ns,
        "created_realtime_ns": FACTS.created_realtime_ns,
        "ready_ns": FACTS.ready_ns,
        "closed_ns": 0,
        "open_overflow": 0,
        "word_overflow": 0,
        "identity_length": len(FACTS.identity),
        "resumed_step": 0,
        "resumed_ns": 0,
    } == found.header
    assert {"attempt": "1", "run": "run", "workload": "golden"} == found.identity


def test_file_rights_do_not_follow_the_umask(tmp_path: Path) -> None:
    """The group may read a ring, others may not, whatever the workload's umask."""
    for index, umask in enumerate((0o000, 0o077)):
        before = os.umask(umask)
        try:
            made = Ring.create(str(tmp_path), FACTS._replace(ring_id=bytes([index]) * 16), 1)
        finally:
            os.umask(before)
        made.forget()
        assert stat.S_IMODE(Path(made.path).stat().st_mode) == 0o640
        assert made.path.endswith(f"{index:02x}" * 16 + ".ring")


def test_a_name_is_never_taken_over(tmp_path: Path) -> None:
    """A file or a link that waits under the ring's name is left alone."""
    target = tmp_path / "precious"
    target.write_text("precious")
    (tmp_path / f"{FACTS.ring_id.hex()}.ring").symlink_to(target)

    with pytest.raises(FileExistsError):
        Ring.create(str(tmp_path), FACTS, 1)
    assert "precious" == target.read_text()


@pytest.mark.parametrize("capacity", [0, -1, (1 << 20) + 1])
def test_capacity_is_bounded(tmp_path: Path, capacity: int) -> None:
    """A capacity that no agent would read makes no file."""
    with pytest.raises(OSError, match=str(capacity)):
        Ring.create(str(tmp_path), FACTS, capacity)
    assert [] == list(tmp_path.iterdir())


def test_the_lock_says_that_the_writer_lives(ring: Ring) -> None:
    """Another process sees our lock on the first byte, with our pid, until the ring closes."""
    ask = (
        "import fcntl, struct, sys\n"
        "with open(sys.argv[1], 'rb') as file:\n"
        "    told = fcntl.fcntl(file, fcntl.F_GETLK,\n"
        "        struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 1, 0))\n"
        "print(*(struct.unpack('hhqqi4x', told)[at] for at in (0, 4)))\n"
    )

    def told() -> list[int]:
        done = subprocess.run(
            [sys.executable, "-c", ask, ring.path], capture_output=True, text=True, check=True
        )
        return [int(each) for each in done.stdout.split()]

    assert [fcntl.F_WRLCK, os.getpid()] == told()
    ring.close(11)
    assert fcntl.F_UNLCK == told()[0]


def test_a_full_file_system_leaves_nothing(tmp_path: Path) -> None:
    """Where pages cannot be reserved there is no ring: a later store would kill the workload."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "apportion-test", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        with pytest.raises(OSError, match="No space left"):
            Ring.create(str(tmp_path), FACTS, 8)
        assert [] == list(tmp_path.iterdir())
        client.init(directory=tmp_path)
        with client.step(1) as span:
            assert not span
        assert {"ring_failed": 1} == client.counts()
        assert "No space left" in str(session.problem)
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_records_go_round(ring: Ring) -> None:
    """When the ring is full the oldest record goes; a sequence is always in its own slot."""
    for number in range(19):
        with client.step(number):
            pass
    raw = raw_of(ring)

    assert list(range(12, 20)) == [record["sequence"] for record in decode(raw).records]
    for record in decode(raw).records:
        at = layout.RECORDS_OFFSET + (record["sequence"] - 1) % 8 * layout.RECORD_BYTES
        assert (record["sequence"],) == struct.unpack_from("<Q", raw, at)


def test_words_that_do_not_fit_become_other(ring: Ring) -> None:
    """The table is bounded: what comes late shares `other`, is counted, and known words stay."""
    for number in range(layout.WORD_CAPACITY + 10):
        with client.request("r", tenant=f"tenant-{number}"):
            pass
    with client.request("r", tenant="tenant-0"):
        pass
    found = decode(raw_of(ring))

    assert layout.WORD_CAPACITY - 1 == len(found.words)
    assert 12 == found.header["word_overflow"]
    assert (layout.OTHER_WORD, "tenant-0") == (
        found.records[-2]["tenant"],
        found.words[found.records[-1]["tenant"]][1],
    )


def test_spans_beyond_the_open_slots_are_flagged(ring: Ring) -> None:
    """A span that found no open slot has a record like any other, which says so, and is counted."""
    many = [client.request(str(each)).start() for each in range(layout.OPEN_SLOT_CAPACITY)]
    with client.step(5):
        pass
    with client.request("late") as late, late.phase("decode"):
        late.scheduled()
        late.first_token()
    found = decode(raw_of(ring))
    for each in many:
        each.finish()

    assert 3 == found.header["open_overflow"]
    assert [layout.FLAG_NO_OPEN_SLOT] * 3 == [record["flags"] for record in found.records]
    assert layout.OPEN_SLOT_CAPACITY == len(found.open_slots)
    assert [] == decode(raw_of(ring)).open_slots
    with client.step(6):
        assert 1 == len(decode(raw_of(ring)).open_slots)


def test_the_spare_word_is_no_fields() -> None:
    """What a span without an open slot clears at its end belongs to nothing else."""
    end = max(offset + struct.calcsize(f"<{code}") for _, offset, code in layout.HEADER_FIELDS)
    assert end <= layout.IDENTITY_OFFSET - 8


def test_a_closed_ring_says_when(directory: Path, python: Run) -> None:
    """A process that ends by itself says so in its ring; one that is killed cannot."""
    python(
        "from apportion import client\nwith client.step(1): pass", APPORTION_RING_DIR=str(directory)
    )
    (ended,) = rings(directory)
    assert only(directory).header["closed_ns"] > 0
    ended.unlink()
    program = (
        "from apportion import client\n"
        "span = client.step(1).start()\n"
        "print('open', flush=True)\n"
        "input()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(sys.path), "APPORTION_RING_DIR": str(directory)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert b"open\n" == process.stdout.readline()
        process.kill()
    until(lambda: process.poll() is not None, "the end of a killed process")
    found = only(directory)
    assert (0, 1) == (found.header["closed_ns"], len(found.open_slots))
