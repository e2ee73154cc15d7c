"""Collective operations: one name for each, and what their bytes and time say of the network.

Definitions are those of NCCL's own tests (NVIDIA/nccl-tests, doc/PERFORMANCE.md): the algorithm
bandwidth is S / t, where S is the size of the whole result for gathers and of the whole input for
scatters; the bus bandwidth multiplies it by the part of S that must cross the slowest link.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

OTHER: Final = "other"
COLLECTIVES: Final = (
    "all_gather",
    "all_reduce",
    "all_to_all",
    "barrier",
    "broadcast",
    "gather",
    "recv",
    "reduce",
    "reduce_scatter",
    "scatter",
    "send",
    OTHER,
)
"""The closed set of names, as PyTorch writes them."""

_LIBRARY: Final = re.compile(r"^(nccl|gloo|ucc|mpi)(devkernel|kernel)?")
_PREFIXES: Final = (
    ("allreduce", "all_reduce"),
    ("reducescatter", "reduce_scatter"),
    ("allgather", "all_gather"),
    ("alltoall", "all_to_all"),
    ("broadcast", "broadcast"),
    ("barrier", "barrier"),
    ("sendrecv", OTHER),
    ("send", "send"),
    ("recv", "recv"),
    ("reduce", "reduce"),
    ("gather", "gather"),
    ("scatter", "scatter"),
)
"""By how the name begins, longer words first: `allreduce` is no `reduce`."""

_ITEM_BYTES: Final = {
    "bool": 1,
    "byte": 1,
    "char": 1,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "short": 2,
    "half": 2,
    "bfloat16": 2,
    "int": 4,
    "float": 4,
    "long": 8,
    "double": 8,
    "complexfloat": 8,
    "complexdouble": 16,
}


def collective_named(name: str) -> str:
    """One of `COLLECTIVES`, from any spelling.

    `nccl:all_reduce`, `AllReduce`, `_allgather_base`, `ncclDevKernel_ReduceScatter_Sum_bf16_RING`.
    """
    letters = re.sub(r"[^a-z0-9]", "", name.lower())
    plain = _LIBRARY.sub("", letters)
    return next((known for word, known in _PREFIXES if plain.startswith(word)), OTHER)


def item_bytes(dtype: str) -> int | None:
    """The size of one element by PyTorch's name of its type; None where it is unknown."""
    return _ITEM_BYTES.get(dtype.lower())


def bus_factor(collective: str, ranks: int) -> Fraction:
    """Bus over algorithm bandwidth in a group of `ranks`; one rank moves nothing: 0."""
    if ranks <= 1:
        return Fraction(0)
    if collective == "all_reduce":
        return Fraction(2 * (ranks - 1), ranks)
    if collective in {"reduce_scatter", "all_gather", "all_to_all"}:
        return Fraction(ranks - 1, ranks)
    return Fraction(1)


def algorithm_bandwidth(size_bytes: int, duration_ns: int) -> float | None:
    """Bytes a second; None where it took no time."""
    return size_bytes * 1e9 / duration_ns if duration_ns > 0 else None


def bus_bandwidth(collective: str, size_bytes: int, duration_ns: int, ranks: int) -> float | None:
    """Bytes a second over the slowest link; None where it took no time."""
    found = algorithm_bandwidth(size_bytes, duration_ns)
    return None if found is None else found * float(bus_factor(collective, ranks))
