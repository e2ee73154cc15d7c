"""What a trace's time went to: known answers, the peer's answers, and everything adds up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.profiles.written import Json, complete, kernel, launch, step, trace_of

from apportion.profiles.device_trace import DeviceTrace
from apportion.profiles.kernel_type import KernelType
from apportion.profiles.rank_breakdown import RankBreakdown
from apportion.profiles.trace_file import TraceFile, trace_files

US = 1_000
PEERS_FILES = {
    "a100_2rank": ["hta_a100_2rank_rank0_nccl_metadata.json.gz"],
    "128gpu": ["hta_128gpu_sampled_rank0.json.gz", "hta_128gpu_sampled_rank1.json.gz"],
    "a100_8rank": ["hta_a100_8rank_rank3_sendrecv_allreduce.json.gz"],
    "dlrm8": ["param_dlrm_8rank_1step_kineto.tar.gz"],
}
TOLERANCE_POINTS = 0.1
# Two steps. In the first: compute 110-150 and 140-160 (another stream), NCCL 150-190 (so 10 hidden
# and 30 exposed), a copy 200-205. In the second a kernel is launched by another thread while the
# first step's copy runs, and ends after its step.
WRITTEN = [
    step(1, 100, 100),
    step(2, 200, 100),
    complete("user_annotation", "enumerate(DataLoader)#_Iter.__next__", 190, 20),
    launch(102, 1),
    kernel("gemm", 110, 40, 1),
    launch(104, 2),
    kernel("gemm", 140, 20, 2, stream=9),
    launch(106, 3),
    kernel("ncclDevKernel_AllReduce_Sum_f32_RING_LL", 150, 40, 3, stream=20),
    launch(195, 4),
    kernel("Memcpy HtoD (Pinned -> Device)", 200, 5, 4),
    launch(203, 5, thread=2),
    kernel("relu", 300, 50, 5),
]


def test_known_answer() -> None:
    """Each figure of a trace whose every microsecond is known."""
    first, second = RankBreakdown.of(trace_of(WRITTEN, rank=3)).steps

    assert (first.number, first.window_ns, first.data_wait_ns) == (1, 100 * US, 10 * US)
    device = first.device
    assert device.span_ns == 95 * US
    assert device.compute_ns == 50 * US
    assert device.communication_ns == 40 * US
    assert device.overlapped_communication_ns == 10 * US
    assert device.exposed_communication_ns == 30 * US
    assert device.memory_ns == 5 * US
    assert device.busy_ns == 85 * US
    assert (device.idle.host_wait_ns, device.idle.kernel_wait_ns) == (10 * US, 0)
    assert (second.number, second.data_wait_ns) == (2, 10 * US)
    assert second.device.busy_ns == 50 * US


def test_gaps_are_explained_by_the_launch_that_ends_them() -> None:
    """Launched late is host wait; launched early, a short gap is kernel wait, a long one other."""
    events = [
        launch(0, 1),
        kernel("a", 10, 10, 1),
        launch(1, 2),
        kernel("b", 25, 10, 2),  # 5 us behind `a`, launched long before
        launch(2, 3),
        kernel("c", 100, 10, 3),  # 65 us behind `b`, launched long before
        launch(120, 4),
        kernel("d", 125, 10, 4),  # launched after `c` had ended
        kernel("e", 140, 10),  # nobody knows its launch
    ]
    idle = RankBreakdown.of(trace_of(events)).whole.device.idle

    assert idle.kernel_wait_ns == 5 * US
    assert idle.other_ns == (65 + 5) * US
    assert idle.host_wait_ns == 15 * US


def test_steps_take_what_they_launched() -> None:
    """A kernel that another thread launched and that ran after its step's end is the step's."""
    ranks = RankBreakdown.of(trace_of(WRITTEN))

    assert [one.device.events for one in ranks.steps] == [4, 1]
    assert ranks.steps[1].device.event_ns == 50 * US


def test_profilers_steps_win_over_ones_own() -> None:
    """A program that also marks `step 5` inside ProfilerStep#105 has one series of steps."""
    own = complete("user_annotation", "step 5", 120, 20)
    alone = RankBreakdown.of(trace_of([own]))
    both = RankBreakdown.of(trace_of([own, step(105, 100, 100)]))

    assert [one.number for one in alone.steps] == [5]
    assert [one.number for one in both.steps] == [105]


EVENTS = st.lists(
    st.tuples(
        st.integers(0, 400),  # launch
        st.integers(0, 90),  # how much later it runs
        st.integers(0, 60),
        st.sampled_from(["gemm", "ncclDevKernel_X", "Memset (Device)", "cudaSync"]),
        st.integers(1, 3),
        st.booleans(),
    ),
    max_size=20,
)


@given(EVENTS)
def test_all_device_time_is_given_to_steps(
    drawn: list[tuple[int, int, int, str, int, bool]],
) -> None:
    """Steps and what no step launched have every event once; idle and busy fill each span."""
    events: list[Json] = [step(1, 100, 90), step(2, 200, 100)]
    for correlation, (at, later, duration, name, stream, launched) in enumerate(drawn, start=1):
        # the number in the name keeps equal events apart
        named = f"{name} {correlation}"
        events.append(kernel(named, at + later, duration, correlation, stream=stream))
        if launched:
            events.append(launch(at, correlation))
    rank = RankBreakdown.of(trace_of(events))

    assert sum(one.device.events for one in rank.steps) == len(drawn)
    assert sum(one.device.event_ns for one in rank.steps) == rank.whole.device.event_ns
    assert sum(one.total_ns for one in rank.kernels) == rank.whole.device.event_ns
    for part in (*rank.steps, rank.whole):
        device = part.device
        assert device.idle.total_ns == device.idle_ns
        assert device.busy_ns + device.idle_ns == device.span_ns
        assert device.compute_ns + device.non_compute_ns == device.busy_ns


def test_trace_without_a_gpu_shows_the_cpus_operators() -> None:
    """Outermost operators of each thread stand in for kernels, and it is said."""
    events = [
        complete("cpu_op", "aten::linear", 0, 50),
        complete("cpu_op", "aten::addmm", 10, 30),
        complete("cpu_op", "aten::relu", 50, 10),
        complete("cpu_op", "aten::mul", 20, 20, tid=2),
    ]
    rank = RankBreakdown.of(trace_of(events))

    assert [one.name for one in rank.kernels] == ["aten::linear", "aten::mul", "aten::relu"]
    assert rank.whole.device.busy_ns == 60 * US
    assert any("no event of a GPU" in warning for warning in rank.warnings)


def test_empty_trace_is_no_fault() -> None:
    """A profiler that saw no work gives zeros and says why."""
    rank = RankBreakdown.of(trace_of([complete("user_annotation", "warm up", 0, 5)]))

    assert (rank.whole.device.span_ns, rank.steps, rank.kernels) == (0, (), ())
    assert len(rank.warnings) == 2


def published(folder: Path, job: str) -> Iterator[DeviceTrace]:
    files, refused = trace_files([folder / name for name in PEERS_FILES[job]])
    assert refused == []
    for file in files:
        yield from file.read()


@pytest.mark.parametrize("job", PEERS_FILES)
@pytest.mark.parametrize("drop_last_step", [True, False])
def test_equal_to_the_peer(published_traces: Path, job: str, drop_last_step: bool) -> None:
    """Within 0.1 percentage points of HolisticTraceAnalysis, on every real trace."""
    answers: Any = json.loads((published_traces / "hta_golden.json").read_text())
    peer = answers[job][f"incl_last_step={not drop_last_step}"]
    ranks = [
        RankBreakdown.of(trace, drop_last_step=drop_last_step, whole_microseconds=True)
        for trace in published(published_traces, job)
    ]

    by_rank = {rank.rank: rank.whole.device for rank in ranks}
    assert len(by_rank) == len(peer["temporal"]) == len(ranks)
    for row in peer["temporal"]:
        device = by_rank[row["rank"]]
        for name, ns in [
            ("idle", device.idle_ns),
            ("compute", device.compute_ns),
            ("non_compute", device.non_compute_ns),
        ]:
            close(100 * ns / device.span_ns, row[f"{name}_time_pctg"])
    for row in peer["overlap"]:
        device = by_rank[row["rank"]]
        hidden = 100 * device.overlapped_communication_ns / device.communication_ns
        close(hidden, row["comp_comm_overlap_pctg"])
    devices = [rank.whole.device for rank in ranks]
    for row in peer["kernel_type"]:
        mask = sum(1 << KernelType[kind] for kind in row["kernel_type"].split(" overlapping "))
        together_ns = sum(device.masks_ns[mask] for device in devices)
        close(100 * together_ns / sum(device.busy_ns for device in devices), row["percentage"])


def close(percent: float, expected: float) -> None:
    assert abs(percent - expected) <= TOLERANCE_POINTS, (percent, expected)


@pytest.mark.parametrize("job", PEERS_FILES)
def test_real_steps_launch_all_device_time(published_traces: Path, job: str) -> None:
    """On real traces all device time has a step; what ran before the profiler saw launches is said.

    Two ranks of the DLRM trace begin with kernels that the step before it had launched.
    """
    for trace in published(published_traces, job):
        rank = RankBreakdown.of(trace)
        known = trace.events.where(trace.events.launched)
        inside = [one.device for one in rank.steps if one.number is not None]

        assert sum(one.device.event_ns for one in rank.steps) == rank.whole.device.event_ns
        assert sum(one.event_ns for one in inside) >= known.duration_ns.sum()
        assert bool(rank.warnings) == (len(known) < len(trace.events))


def test_streams_are_idle_as_the_peer_says(published_traces: Path) -> None:
    """To the microsecond what HolisticTraceAnalysis 0.5.0 prints as idle time of each stream."""
    file = TraceFile(published_traces / PEERS_FILES["a100_8rank"][0])
    (trace,) = file.read()

    found = {
        one.stream: (one.idle.host_wait_ns, one.idle.kernel_wait_ns, one.idle.other_ns)
        for one in RankBreakdown.of(trace).streams
    }

    assert found == {
        7: (133_311 * US, 17_152 * US, 32_751 * US),
        20: (424_456 * US, 739 * US, 9_684 * US),
        21: (285_806 * US, 78 * US, 0),
        22: (340_772 * US, 1_515 * US, 0),
    }
