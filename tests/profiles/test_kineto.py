"""Traces of torch.profiler: both schemas, any cut, and refusals that say what to do."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.profiles.written import Json, complete, document, kernel, launch, save, step, trace_of

from apportion.core.errors import ProfileTraceError
from apportion.profiles import kineto_events
from apportion.profiles.kineto_events import KinetoEvents
from apportion.profiles.kineto_trace import read_kineto
from apportion.profiles.trace_file import TraceFile, trace_files

NESTED: Json = {"shape": [{"a": 1}, {"b": [{"c": "}, {"}, 1]}]}
BEYOND_64_BITS = json.dumps(
    {"traceEvents": [{"ph": "X", "cat": "kernel", "args": {"stream": 10**19}}]}
).encode()
HOSTILE_NAMES = st.text(
    st.sampled_from('ab}],{["\\ :') | st.characters(exclude_categories=["Cs"]), max_size=12
)


class Drips:
    """A stream that gives a few bytes at a time, so that every cut is met."""

    def __init__(self, text: bytes, size: int) -> None:
        self._file = io.BytesIO(text)
        self._size = size

    def read(self, _size: int, /) -> bytes:
        return self._file.read(self._size)


@given(
    st.lists(st.tuples(HOSTILE_NAMES, st.integers(0, 9)), min_size=1, max_size=8),
    st.integers(1, 80),
    st.sampled_from([None, 2]),
)
def test_every_cut_gives_the_same_events(
    drawn: list[tuple[str, int]], size: int, indent: int | None
) -> None:
    """Names that look like JSON, nested arguments and tiny chunks lose and invent no event."""
    events = [
        kernel(name, 10 * row, duration, row + 1, facts=NESTED)
        for row, (name, duration) in enumerate(drawn)
    ]
    content = document(events, trailing=[{"x": 1}, {"y": 2}], traceName="}, {")
    text = json.dumps(content, indent=indent).encode()

    trace = read_kineto(Drips(text, size), "drips")

    found = [
        (trace.names[int(trace.events.name[row])], int(trace.events.duration_ns[row]))
        for row in range(len(trace.events))
    ]
    assert found == [(name, duration * 1000) for name, duration in drawn]


def test_old_and_new_schema_agree() -> None:
    """Absolute integer microseconds and relative float ones are the same nanoseconds."""
    old = trace_of([launch(1_661_203_462_598_738, 1), kernel("a", 1_661_203_462_598_745, 19, 1)])
    new = trace_of(
        [launch(4_458_676_522_690.655, 1), kernel("a", 4_458_676_522_700.123, 156.777, 1)]
    )

    assert old.events.start_ns.tolist() == [1_661_203_462_598_745_000]
    assert old.events.launch_ns.tolist() == [1_661_203_462_598_738_000]
    # a double of that size has a resolution of 1 ns
    assert abs(int(new.events.start_ns[0]) - 4_458_676_522_700_123) <= 1
    assert new.events.duration_ns.tolist() == [156_777]


def test_repeated_events_count_once() -> None:
    """A trace whose events are there ten times gives the figures of one, and says so."""
    events = [step(1, 0, 100), launch(1, 1), kernel("a", 5, 10, 1), kernel("b", 20, 5, 1)]
    once, ten = trace_of(events), trace_of(events * 10)

    assert once.events.start_ns.tolist() == ten.events.start_ns.tolist()
    assert once.warnings == ()
    assert "18 events are there more than once" in ten.warnings[0]


def test_collectives_follow_their_events() -> None:
    """Facts of a collective stay with its kernel when events are sorted and copies left out."""
    facts: Json = {"Collective name": "allreduce", "In msg nelems": 8, "dtype": "Float", "Seq": 4}
    late = kernel("ncclDevKernel_AllReduce", 50, 10, 2, facts=facts)
    trace = trace_of([late, late, kernel("a", 5, 10, 1)])

    (found,) = trace.collectives
    assert trace.names[int(trace.events.name[found.event])] == "ncclDevKernel_AllReduce"
    assert (found.name, found.elements, found.sequence) == ("allreduce", 8, 4)


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([kernel("a", 0, 1, 1), kernel("b", 5, 1, 2)], "no launch has a correlation id"),
        ([launch(0, 1), kernel("a", 1, 1, 1), kernel("b", 5, 1)], "1 of 2 device events have no"),
        ([launch(900, 1), kernel("a", 1, 1, 1)], "clocks of GPU and host are apart"),
        ([launch(1, 1), kernel("a", 5e6, 1, 1)], "begins 5.0 s or more after its launch"),
        ([complete("cpu_op", "aten::mm", 0, 1)], "no event of a GPU"),
    ],
)
def test_doubts_are_said(events: list[Json], said: str) -> None:
    """What makes figures doubtful is a warning with its remedy, not an error."""
    (warning,) = trace_of(events).warnings

    assert said in warning


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b"RIFF....", "is not JSON"),
        (b"[1, 2]", "is not JSON"),
        (b'{"traceEvents": [{"ph": "M", "name": "process_name"}]}', "has no events"),
        (b'{"nodes": []}', "JSON without `traceEvents`"),
        (b'{"schemaVersion": 1, "traceEvents": [', "ends in the middle"),
        (b'{"traceEvents": [{"ph": "X", "name": "a"', "ends in the middle"),
        (b'{"traceEvents": [{"ph": "X"}, {"ph": NaN}]}', "is not valid JSON at byte 37: "),
        (b'{"schemaVersion": 2, "traceEvents": []}', "has schemaVersion 2, and only 1"),
        (b'{"traceEvents": [{"ph": "X", "ts": "late"}]}', "has a schema that is not known"),
        (b'{"traceEvents": [{"ph": "X", "cat": "kernel", "ts": 1e300}]}', "clock was set"),
        (b'{"traceEvents": [{"ph": "X", "cat": "kernel", "dur": -5}]}', "clock was set"),
        (b'{"traceEvents": [{"ph": "X", "name": "\xff"}]}', "is not valid JSON"),
        (b'{"traceEvents": [{"a": ' + b"[" * 100_000, "nested deeper"),
        (b'{"baseTimeNanoseconds": 9000000000000000000, "traceEvents": []}', "beyond 64 bits"),
        (b'{"traceEvents": [{"ph":"X","cat":"kernel","args":{"bytes":1e19}}]}', "schema"),
        (BEYOND_64_BITS, "beyond 64 bits"),
    ],
)
def test_what_is_no_trace_is_refused(text: bytes, said: str) -> None:
    """Each refusal names the file, what is wrong, and what to do."""
    with pytest.raises(ProfileTraceError, match=said) as refusal:
        read_kineto(io.BytesIO(text), "job.json")

    assert str(refusal.value).startswith("job.json: ")


def test_an_endless_event_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: what never ends in an event is given up."""
    monkeypatch.setattr(kineto_events, "MAX_PENDING_BYTES", 1 << 12)
    text = b'{"traceEvents": [{"ph": "X", "name": "' + b"a" * (1 << 16) + b'"}]}'

    with pytest.raises(ProfileTraceError, match=r"^job\.json: is damaged behind byte 17"):
        read_kineto(Drips(text, 1 << 10), "job.json")


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.anything"])
def test_content_decides_how_a_file_is_read(tmp_path: Path, name: str) -> None:
    """A packed and a plain trace give the same, whatever the file is called."""
    content = document([launch(0, 1), kernel("a", 1, 1, 1)], rank=1)

    (trace,) = TraceFile(save(tmp_path / name, content)).read()

    assert (trace.rank, trace.world_size, len(trace.events)) == (1, 2, 1)


def test_files_of_another_kind_say_how_to_unpack(tmp_path: Path) -> None:
    """What is recognised and not read says which command makes it readable."""
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04" + bytes(600))
    (tmp_path / "a.gz").write_bytes(gzip.compress(b'{"traceEvents": []}')[:-9])
    (tmp_path / "folder").mkdir()
    paths = [tmp_path / name for name in ("a.zip", "a.gz", "folder", "missing.json")]

    _, refused = trace_files(paths)
    said = " ".join(map(str, refused))

    for words in ("unpack it", "cut off or damaged", "is no plain file", "No such file"):
        assert words in said


def test_any_device_number_is_only_a_name() -> None:
    """A number of a device from a damaged file sizes no table."""
    far = kernel("a", 0, 1, 1, facts={"device": 10**15})

    assert trace_of([launch(0, 1), far]).device_name is None


def test_batches_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """No batch is longer than a chunk and what was left of the one before: memory is bounded."""
    monkeypatch.setattr(kineto_events, "CHUNK_BYTES", 1 << 12)
    events = [kernel("a", row, 1, row + 1) for row in range(2_000)]
    text = json.dumps(document(events)).encode()
    smallest = min(len(json.dumps(event)) for event in events)

    sizes = [len(batch) for batch in KinetoEvents(io.BytesIO(text), "a.json")]

    assert sum(sizes) == len(events)
    assert max(sizes) <= 2 * (1 << 12) / smallest
