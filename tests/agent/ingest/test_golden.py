"""A ring of version 1, kept as bytes: every agent reads it for ever."""

from __future__ import annotations

from pathlib import Path

from tests.agent.ingest.conftest import Bench
from tests.agent.ingest.writer import BOOT_ID, RingWriter, packed, record

from apportion.agent.ingest import LossWindow, Position, RingReader, open_ring_file, request_id_of
from apportion.client import layout
from apportion.core.ids import RingId

GOLDEN = Path(__file__).parent / "golden" / "00112233445566778899aabbccddeeff.ring"


def make(path: Path) -> None:
    """Write the golden ring: eight slots, lapped once, with a hole, words and open spans.

    Never to be run over the file that is checked in; a new version gets a new file.
    """
    writer = RingWriter(
        path,
        capacity=8,
        identity={
            "workload": "golden",
            "run": "run-1",
            "attempt": "2",
            "rank": 1,
            "world_size": 4,
            "tags": {"team": "search"},
            "devices": ["GPU-00000000-0000-0000-0000-000000000001"],
            "client_version": "0.1.0",
        },
        pid=4321,
        process_start_ns=500,
        init_ns=700,
        created_monotonic_ns=1_000,
        ready_ns=1_100,
        closed_ns=9_000,
    )
    writer.apply(*writer.word_stores(1, "other"), *writer.word_stores(2, "tenant ✓"))
    writer.apply(*writer.word_stores(3, "GPU-00000000-0000-0000-0000-000000000001", 2))
    writer.write(7)
    writer.take()
    writer.write(2)
    writer.apply(
        *writer.record_stores(11, request_id=b"\x05\x00req-1" + bytes(57), tenant=2, model=0)
    )
    writer.apply(*writer.open_stores(0, 1_500, 12, packed=packed(2, 0), step=40, words=2))
    writer.close()


def test_the_golden_ring_is_what_the_test_writer_writes(tmp_path: Path) -> None:
    """Protects the file and the layout from drifting apart: an offset that moves shows here."""
    path = tmp_path / GOLDEN.name
    make(path)
    ours, kept = path.read_bytes(), GOLDEN.read_bytes()
    assert ours == kept


def test_version_1_is_readable_for_ever(bench: Bench) -> None:
    """Protects old images: their rings are read by every later agent."""
    bench.clock.advance(0)
    reader = RingReader(open_ring_file(str(GOLDEN)), Position(), bench.clock, boot_id=BOOT_ID)
    bench.reader = reader
    identity = reader.identity
    assert (identity.ring, identity.pid, identity.created_ns) == (GOLDEN.stem, 4321, 1_000)
    assert (identity.process_start_ns, identity.init_ns) == (500, 700)
    assert (identity.workload, identity.run, identity.attempt) == ("golden", "run-1", "2")
    assert (identity.said.rank, identity.said.world_size) == (1, 4)
    assert identity.said.devices == ("GPU-00000000-0000-0000-0000-000000000001",)
    _, poll = bench.poll(2)
    assert poll.records["sequence"].tolist() == [4, 5, 6, 7, 9, 10, 11]
    assert poll.records[0].tobytes() == record(4)
    assert request_id_of(poll.records["request_id"][-1].tobytes()) == "req-1"
    assert poll.loss_windows == (LossWindow(RingId(GOLDEN.stem), 1_000, 1_045, 3),)
    assert poll.position == Position(11, (), lost=3, abandoned=1, end_ns=1_115)
    assert poll.words == (None, "other", "tenant ✓", None)
    assert poll.devices == ("GPU-00000000-0000-0000-0000-000000000001",)
    assert poll.open_spans["step"].tolist() == [40]
    assert (poll.state.ready_ns, poll.state.closed_ns) == (1_100, 9_000)
    assert poll.finished


def test_the_golden_ring_has_version_1() -> None:
    """Protects the golden file from being replaced by one of a later version."""
    raw = GOLDEN.read_bytes()
    assert raw[:8] == b"apprtn01"
    assert raw[layout.HEADER_OFFSETS["version"]] == 1
