"""A device's time as stacks: nothing is paid twice, nothing is left over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.profiles.written import Json, complete, kernel, launch, step, trace_of

from apportion.profiles.coverage import Coverage
from apportion.profiles.rank_breakdown import RankBreakdown
from apportion.profiles.rank_stacks import STEP, RankStacks
from apportion.profiles.shared_time import SharedTime
from apportion.profiles.stack_filter import costliest, of_steps
from apportion.profiles.stacks import Stacks
from apportion.profiles.step_range import StepRange
from apportion.profiles.trace_file import TraceFile

US = 1_000
NCCL = "ncclDevKernel_AllReduce_Sum_f32_RING_LL"
IDLE = {"[host_wait]", "[kernel_wait]", "[idle]"}


def weighed(stacks: Stacks) -> Counter[str]:
    """Nanoseconds of each stack, all steps together."""
    found: Counter[str] = Counter()
    for index, value in enumerate(stacks.values[0].tolist()):
        found[";".join(stacks.stack(index))] += value
    return found


def operator(name: str, start_us: float, duration_us: float, thread: int = 1) -> Json:
    return complete("cpu_op", name, start_us, duration_us, tid=thread)


def test_kernels_hang_below_what_launched_them() -> None:
    """Modules, marks and operators of the launching thread, from outermost to innermost."""
    trace = trace_of(
        [
            step(7, 0, 100),
            complete("user_annotation", "forward", 0, 50),
            complete("python_function", "nn.Module: Linear_0", 1, 40),
            complete("python_function", "train.py(3): main", 0, 90),
            operator("aten::linear", 2, 30),
            operator("aten::addmm", 3, 20),
            launch(4, 1),
            kernel("gemm", 10, 20, 1),
            operator("backward", 60, 20, thread=2),
            launch(61, 2, thread=2),
            kernel("gemm", 62, 10, 2),
            launch(70, 3, thread=9),
            kernel("lonely", 72, 8, 3),
        ]
    )

    found = RankStacks.of(trace)

    assert weighed(found.stacks) == {
        "forward;nn.Module: Linear_0;aten::linear;aten::addmm;gemm": 20 * US,
        "backward;gemm": 10 * US,
        "lonely": 8 * US,
        "[host_wait]": (10 + 32) * US,
        "[idle]": 20 * US,
    }
    codes: list[int] = found.stacks.labels[STEP].tolist()
    assert {found.stacks.names[code] for code in codes} == {"7"}


def test_concurrent_kernels_share_their_instants() -> None:
    """Communication that computation hides is half of that time; what is exposed is a category."""
    trace = trace_of(
        [
            step(1, 0, 40),
            launch(0, 1),
            launch(0, 2),
            kernel("gemm", 0, 20, 1),
            kernel(NCCL, 10, 30, 2, stream=20),
        ]
    )

    assert weighed(RankStacks.of(trace).stacks) == {
        "gemm": 15 * US,
        NCCL: 5 * US,
        f"[exposed_communication];{NCCL}": 20 * US,
    }


def test_waiting_for_a_straggler_is_not_communication() -> None:
    """Of what is exposed, the time until the last rank came is waiting, not the wire."""
    trace = trace_of(
        [
            step(1, 0, 40),
            launch(0, 1),
            launch(0, 2),
            kernel("gemm", 0, 5, 1),
            kernel(NCCL, 0, 40, 2),
        ]
    )

    found = RankStacks.of(trace, {trace.source: [30 * US]})

    assert weighed(found.stacks) == {
        "gemm": 2_500,
        NCCL: 2_500,
        f"[straggler_wait];{NCCL}": 25 * US,
        f"[exposed_communication];{NCCL}": 10 * US,
    }


def test_without_a_device_operators_stand_for_themselves() -> None:
    """Each operator has the time in which it was the innermost; threads share instants."""
    trace = trace_of(
        [
            step(1, 0, 40),
            complete("user_annotation", "forward", 0, 20),
            operator("outer", 0, 20),
            operator("inner", 5, 10),
            operator("other", 30, 10, thread=2),
        ]
    )

    assert weighed(RankStacks.of(trace).stacks) == {
        "forward;outer": 10 * US,
        "forward;outer;inner": 10 * US,
        "other": 10 * US,
        "[host_wait]": 10 * US,
    }


def test_steps_are_filtered_and_ranked() -> None:
    """A range of steps, and the share of them that weighs most, waiting for them included."""
    events: list[Json] = []
    for number in range(1, 5):
        at = 100 * number
        events += [step(number, at, 100), launch(at + 1, number)]
        events.append(kernel("gemm", at + 10, 20 * number, number))
    stacks = RankStacks.of(trace_of(events)).stacks

    chosen = stacks.where(of_steps(stacks, STEP, StepRange(2, 3)))
    most = stacks.where(costliest(stacks, 0, STEP, 30))

    assert weighed(chosen)["gemm"] == (40 + 60) * US
    assert {most.names[code] for code in most.labels[STEP].tolist()} == {"4"}


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 15)), max_size=12),
    st.lists(st.integers(0, 60), max_size=4),
)
def test_shares_add_up_to_what_is_covered(items: list[tuple[int, int]], cuts: list[int]) -> None:
    """Whatever overlaps, the parts sum to the union, and nobody gets more than it took."""
    start = np.array([begin for begin, _ in items], np.int64)
    end = start + np.array([length for _, length in items], np.int64)

    shared = SharedTime.of(start, end, np.array(cuts, np.int64))

    own = np.zeros(len(items), np.int64)
    np.add.at(own, shared.item, shared.part_ns)
    assert int(own.sum()) == Coverage.of(start, end).covered_ns
    assert (own <= end - start).all()


@pytest.mark.parametrize(
    "name",
    [
        "hta_a100_2rank_rank0_nccl_metadata.json.gz",
        "hta_a100_8rank_rank3_sendrecv_allreduce.json.gz",
        "hta_128gpu_sampled_rank0.json.gz",
    ],
)
def test_real_traces_add_up(published_traces: Path, name: str) -> None:
    """All stacks are the watched time to the nanosecond, those that ran are its busy time."""
    (trace,) = TraceFile(published_traces / name).read()
    whole = RankBreakdown.of(trace).whole

    stacks = weighed(RankStacks.of(trace).stacks)

    busy_ns = sum(value for stack, value in stacks.items() if stack not in IDLE)
    assert busy_ns == whole.device.busy_ns
    assert stacks.total() == whole.window_ns


def test_stacks_are_those_of_another_reader(published_traces: Path) -> None:
    """Every stack that a plain walk through one real trace found, and no other."""
    (trace,) = TraceFile(published_traces / "hta_a100_2rank_rank0_nccl_metadata.json.gz").read()
    known: Counter[str] = Counter()
    text = (published_traces / "hta_a100_2rank_rank0.gpu_us.folded.txt").read_text()
    for line in text.splitlines():
        stack, _, weight = line.rpartition(" ")
        known[_cut(one for one in stack.split(";") if "ProfilerStep" not in one)] += int(weight)

    ours: Counter[str] = Counter()
    for stack, value in weighed(RankStacks.of(trace).stacks).items():
        if stack not in IDLE:
            frames = stack.split(";")
            ours[_cut(frames[1:] if frames[0].startswith("[") else frames)] += value

    assert set(ours) == set(known)
    assert all(ours[stack] <= (known[stack] + 5) * US for stack in known)


def _cut(frames: Iterable[str]) -> str:
    """That reader kept sixty letters of a name."""
    return ";".join(frame[:60].strip() for frame in frames)
