"""Names, sizes and bandwidths of collectives."""

from __future__ import annotations

from fractions import Fraction

import pytest

from apportion.core.collective import (
    COLLECTIVES,
    algorithm_bandwidth,
    bus_bandwidth,
    bus_factor,
    collective_named,
    item_bytes,
)


@pytest.mark.parametrize(
    ("name", "collective"),
    [
        ("nccl:all_reduce", "all_reduce"),
        ("gloo:all_reduce", "all_reduce"),
        ("AllReduce", "all_reduce"),
        ("allreduce_coalesced", "all_reduce"),
        (
            "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
            "all_reduce",
        ),
        ("ncclKernel_ReduceScatter_RING_LL_Sum_float", "reduce_scatter"),
        ("_reduce_scatter_base", "reduce_scatter"),
        ("nccl:_all_gather_base", "all_gather"),
        ("allgather_into_tensor_coalesced", "all_gather"),
        ("nccl:all_to_all", "all_to_all"),
        ("alltoall_base", "all_to_all"),
        ("Reduce", "reduce"),
        ("Broadcast", "broadcast"),
        ("ncclDevKernel_SendRecv", "other"),
        ("nccl:send 0->1", "send"),
        ("nccl:recv 0<-1", "recv"),
        ("Barrier", "barrier"),
        ("nccl:coalesced", "other"),
        ("", "other"),
    ],
)
def test_every_spelling_has_one_name(name: str, collective: str) -> None:
    """PyTorch, its kernels, the Inspector and gloo write the same thing in five ways."""
    assert collective in COLLECTIVES
    assert collective_named(name) == collective


def test_bandwidth_of_a_measured_all_reduce() -> None:
    """26,550,272 bytes in 2,636.669 us by two ranks: 10.07 GB/s, on the bus as well."""
    arguments = (26_550_272, 2_636_669)
    assert algorithm_bandwidth(*arguments) == pytest.approx(10.07e9, rel=1e-3)
    assert bus_bandwidth("all_reduce", *arguments, 2) == pytest.approx(10.07e9, rel=1e-3)


def test_factors_are_those_of_nccls_tests() -> None:
    """What must cross the slowest link, for eight ranks; one rank moves nothing."""
    assert bus_factor("all_reduce", 8) == Fraction(14, 8)
    assert bus_factor("reduce_scatter", 8) == bus_factor("all_gather", 8) == Fraction(7, 8)
    assert bus_factor("all_to_all", 8) == Fraction(7, 8)
    assert bus_factor("broadcast", 8) == bus_factor("send", 8) == 1
    assert bus_factor("all_reduce", 1) == 0


def test_what_took_no_time_has_no_bandwidth() -> None:
    """A missing measurement is absent and not infinite."""
    assert algorithm_bandwidth(1, 0) is None
    assert bus_bandwidth("all_reduce", 1, 0, 2) is None


def test_unknown_types_have_no_size() -> None:
    """A new element type of PyTorch is not guessed."""
    assert (item_bytes("BFloat16"), item_bytes("Float8_e4m3fn"), item_bytes("Q4")) == (2, 1, None)
