"""NCCL's traffic from dumps and logs: each operation once, times only where they are known."""

from __future__ import annotations

import json
import os
import pickle  # noqa: TID251 - what older PyTorch writes
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.collectors.flight_recorder import read_dump
from apportion.collectors.nccl import ABANDONED_NS, Nccl
from apportion.collectors.nccl_inspector import read_line
from apportion.collectors.nccl_operation import Operation
from apportion.collectors.nccl_totals import MOST_COMMUNICATORS, NcclTotals
from apportion.collectors.options import CollectorOptions
from apportion.core.clock import ManualClock
from apportion.core.errors import CollectorError, NoData
from apportion.core.sample import Sample

PUBLISHED = Path(__file__).parents[3] / "shared" / "fixtures"


def entry(record: int, *, retired: bool = True, **others: Any) -> dict[str, Any]:
    """An operation as the Flight Recorder has it: an all-reduce of 3 x 4 floats."""
    return {
        "record_id": record,
        "process_group": ["0", "default_pg"],
        "collective_seq_id": record + 1,
        "profiling_name": "nccl:all_reduce",
        "input_sizes": [[3, 4]],
        "input_dtypes": ["Float"],
        "output_sizes": [[3, 4]],
        "output_dtypes": ["Float"],
        "state": "completed" if retired else "scheduled",
        "retired": retired,
        "is_p2p": False,
        **others,
    }


def dump(*entries: dict[str, Any], head: str = "") -> bytes:
    config = {"0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1]"}}
    document = {"version": "2.10", "pg_config": config, "entries": list(entries)}
    return head.encode() + json.dumps(document).encode()


def line(number: int = 1, *, pid: int = 7, **others: Any) -> str:
    """A line of the Inspector's log."""
    performance = {
        "coll": "AllGather",
        "coll_sn": number,
        "coll_msg_size_bytes": 1_000,
        "coll_exec_time_us": 50,
        **others,
    }
    header = {"id": "0xabc", "comm_name": "DP Group 0", "rank": 2, "n_ranks": 8, "nnodes": 1}
    metadata = {"pid": pid, "hostname": "a", "dump_timestamp_us": 1}
    return json.dumps({"header": header, "metadata": metadata, "coll_perf": performance}) + "\n"


def collector(tmp_path: Path, clock: ManualClock | None = None) -> Nccl:
    rings, logs = tmp_path / "rings", tmp_path / "logs"
    rings.mkdir(exist_ok=True)
    logs.mkdir(exist_ok=True)
    options = CollectorOptions(ring_dir=rings, nccl_dirs=(logs,))
    return Nccl(options, clock or ManualClock())


def told(samples: tuple[Sample, ...] | None) -> dict[tuple[str, ...], float]:
    """Each sample by its name and the texts of its labels."""
    assert samples is not None
    return {(name, *(text for _, text in labels)): value for name, value, labels in samples}


GROUP = ("default_pg", "all_reduce")


def test_an_operation_is_counted_once(tmp_path: Path) -> None:
    """A dump holds the last ones again; one that had not ended is counted when it has."""
    nccl, path = collector(tmp_path), tmp_path / "rings" / "a.nccl"
    path.write_bytes(dump(entry(0), entry(1, retired=False)))
    assert told(nccl.collect().samples)[("nccl_operations_total", *GROUP)] == 1
    assert told(nccl.collect().samples)[("nccl_operations_total", *GROUP)] == 1
    path.with_suffix(".new").write_bytes(dump(entry(0), entry(1), entry(2)))
    path.with_suffix(".new").rename(path)
    found = told(nccl.collect().samples)
    assert found[("nccl_operations_total", *GROUP)] == 3
    assert found[("nccl_bytes_total", *GROUP)] == 3 * 48
    assert found[("nccl_missed_operations_total",)] == 0


def test_what_the_buffer_overwrote_is_counted_as_missed(tmp_path: Path) -> None:
    """Records 2 to 9 were gone before the second dump."""
    nccl, path = collector(tmp_path), tmp_path / "rings" / "a.nccl"
    path.write_bytes(dump(entry(0), entry(1)))
    nccl.collect()
    path.unlink()
    path.write_bytes(dump(entry(10), entry(11)))
    found = told(nccl.collect().samples)
    assert found[("nccl_missed_operations_total",)] == 8
    assert found[("nccl_operations_total", *GROUP)] == 4


def test_without_timing_there_are_no_seconds(tmp_path: Path) -> None:
    """Absent and not 0: PyTorch measures only where TORCH_NCCL_ENABLE_TIMING is set."""
    nccl = collector(tmp_path)
    (tmp_path / "rings" / "a.nccl").write_bytes(dump(entry(0)))
    names = {key[0] for key in told(nccl.collect().samples)}
    assert "nccl_seconds_total" not in names
    assert "nccl_bus_bandwidth_bytes_per_second" not in names


def test_the_slower_rank_waited_for_nobody_but_the_quicker_one_did(tmp_path: Path) -> None:
    """Of 5 and 2 ms, 2 are the wire's: the first rank was there 3 ms before the other."""
    nccl = collector(tmp_path)
    for rank, duration_ms in enumerate((5.0, 2.0)):
        data = dump(entry(0, duration_ms=duration_ms))
        (tmp_path / "rings" / f"{rank}.nccl").write_bytes(data)
    found = told(nccl.collect().samples)
    assert found[("nccl_seconds_total", *GROUP)] == pytest.approx(0.007)
    assert found[("nccl_wait_seconds_total", *GROUP)] == pytest.approx(0.003)


def test_the_inspectors_log_is_followed_and_rotated(tmp_path: Path) -> None:
    """Each line once, an unfinished one when it is whole, a new file from its beginning."""
    nccl, path = collector(tmp_path), tmp_path / "logs" / "host-pid7.log"
    path.write_text(line(1) + line(2)[:40])
    key = ("nccl_operations_total", "DP Group 0", "all_gather")
    assert told(nccl.collect().samples)[key] == 1
    with path.open("a") as file:
        file.write(line(2)[40:])
    found = told(nccl.collect().samples)
    assert found[key] == 2
    assert found["nccl_bytes_total", "DP Group 0", "all_gather"] == 2 * 8_000
    path.rename(path.with_suffix(".log.1"))
    path.write_text(line(3))
    assert told(nccl.collect().samples)[key] == 3


def test_a_process_has_one_source(tmp_path: Path) -> None:
    """Where the Inspector speaks for it, its Flight Recorder would say the same again."""
    nccl = collector(tmp_path)
    (tmp_path / "logs" / "host-pid7.log").write_text(line(1, pid=7))
    head = '{"apportion":{"pid":%d,"cost_ns":1500000}}\n'
    (tmp_path / "rings" / "a.nccl").write_bytes(dump(entry(0), head=head % 7))
    (tmp_path / "rings" / "b.nccl").write_bytes(dump(entry(0), head=head % 8))
    found = told(nccl.collect().samples)
    assert found[("nccl_operations_total", *GROUP)] == 1
    assert found[("nccl_dump_seconds_total",)] == 0.003


def test_bandwidth_is_that_of_the_last_operations(tmp_path: Path) -> None:
    """S over time, and what of it crosses the slowest link; gone when nothing new came."""
    nccl = collector(tmp_path)
    path = tmp_path / "logs" / "host-pid7.log"
    path.write_text(line(1))
    found = told(nccl.collect().samples)
    group = ("DP Group 0", "all_gather")
    assert found[("nccl_algorithm_bandwidth_bytes_per_second", *group)] == 160e6
    assert found[("nccl_bus_bandwidth_bytes_per_second", *group)] == 140e6
    assert ("nccl_bus_bandwidth_bytes_per_second", *group) not in told(nccl.collect().samples)


def test_a_pickle_is_read_as_plain_values() -> None:
    """Older PyTorch has no other form."""
    found = read_dump(pickle.dumps(json.loads(dump(entry(0)))))
    assert [operation.size_bytes for operation in found.operations] == [48]


class Hostile:
    """Makes a directory when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_hostile_pickle_runs_nothing(tmp_path: Path) -> None:
    """The file is a workload's: it must not become the agent's code."""
    hostile = Hostile(tmp_path / "was_here")
    with pytest.raises(CollectorError):
        read_dump(pickle.dumps({"entries": [hostile]}))
    nccl = collector(tmp_path)
    (tmp_path / "rings" / "a.nccl").write_bytes(pickle.dumps(hostile))
    with pytest.raises(CollectorError, match=r"none of 1 files in .* is a dump"):
        nccl.collect()
    assert not hostile.path.exists()
    pickle.loads(pickle.dumps(hostile))
    assert hostile.path.exists()


@given(
    st.one_of(
        st.binary(max_size=200), st.binary(max_size=50).map(lambda b: dump(entry(0))[: len(b) * 8])
    )
)
def test_any_bytes_are_a_dump_or_refused(data: bytes) -> None:
    """Truncated and random files are counted, and nothing else happens."""
    try:
        read_dump(data)
    except CollectorError:
        return


@given(st.one_of(st.text(max_size=100), st.integers(0, 300).map(lambda n: line()[:n])))
def test_any_line_is_an_operation_or_refused(text: str) -> None:
    """A log that is cut off in the middle of a line loses that line alone."""
    try:
        read_line(text)
    except CollectorError:
        return


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A workload may not make the agent read somebody else's file."""
    nccl = collector(tmp_path)
    (tmp_path / "secret").write_bytes(dump(entry(0)))
    (tmp_path / "rings" / "a.nccl").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "rings" / "b.nccl")
    with pytest.raises(NoData):
        nccl.collect()


def test_what_a_dead_process_left_is_removed(tmp_path: Path) -> None:
    """Its ring is gone; one that still has its ring stays."""
    clock = ManualClock()
    nccl = collector(tmp_path, clock)
    paths = [tmp_path / "rings" / f"{name}.nccl" for name in "ab"]
    for path in paths:
        path.write_bytes(dump(entry(0)))
        os.utime(path, ns=(clock.realtime_ns(), clock.realtime_ns()))
    (tmp_path / "rings" / "b.ring").write_bytes(b"")
    nccl.collect()
    clock.advance(ABANDONED_NS + 1)
    nccl.collect()
    assert [path.exists() for path in paths] == [False, True]


def test_communicators_have_a_bound() -> None:
    """A job that makes groups for ever does not make series for ever."""
    totals = NcclTotals()
    for number in range(MOST_COMMUNICATORS + 5):
        totals.add("p", Operation(f"g{number}", "0", "all_reduce", 1, number))
    found = told(tuple(totals.samples()))
    communicators = {key[1] for key in found if len(key) > 1}
    assert len(communicators) == MOST_COMMUNICATORS + 1
    assert found["nccl_bytes_total", "other", "all_reduce"] == 5


def test_published_samples_say_what_their_authors_say() -> None:
    """The Inspector's own bandwidths, and the tutorial's dump."""
    folder = Path(os.environ.get("APPORTION_FIXTURES", PUBLISHED)) / "nccl"
    if not folder.is_dir():
        pytest.skip("no published inputs: set APPORTION_FIXTURES to their folder")
    for text in (folder / "nccl_inspector_readme_samples.jsonl").read_text().splitlines():
        totals = NcclTotals()
        totals.add("p", read_line(text)[1])
        facts = json.loads(text)["coll_perf"]
        found = {name: value for name, value, _ in totals.samples()}
        bus = found["nccl_bus_bandwidth_bytes_per_second"]
        assert bus == pytest.approx(facts["coll_busbw_gbs"] * 1e9, rel=1e-6)
        algorithm = found["nccl_algorithm_bandwidth_bytes_per_second"]
        assert algorithm == pytest.approx(facts["coll_algobw_gbs"] * 1e9, rel=1e-6)
    (operation,) = read_dump(
        (folder / "flight_recorder_tutorial_sample.json").read_bytes()
    ).operations
    assert (operation.communicator, operation.collective) == ("default_pg", "all_reduce")
    assert (operation.size_bytes, operation.ranks, operation.duration_ns) == (48, 2, None)
