"""The log of NCCL's Inspector plugin: a JSON object for each operation, in a file that grows.

Facts: NVIDIA/nccl, plugins/profiler/inspector (format v4.0 and older, which lack some keys). The
message size of a gather or scatter is one rank's; S of the whole group is that times the ranks.
"""

from __future__ import annotations

import json
from typing import Any, Final, cast

from apportion.collectors.nccl_operation import Operation
from apportion.core.collective import collective_named
from apportion.core.errors import CollectorError

_OF_ONE_RANK: Final = frozenset({"all_gather", "reduce_scatter"})
_NS_PER_US: Final = 1_000


def read_line(line: str) -> tuple[int | None, Operation]:
    """The pid that wrote a line, and its operation.

    Raises:
        CollectorError: the line is none of the Inspector's.
    """
    try:
        document = cast("dict[str, Any]", json.loads(line))
        header = document["header"]
        metadata: dict[str, Any] = document.get("metadata") or {}
        kind = "coll" if "coll_perf" in document else "p2p"
        facts = document[f"{kind}_perf"]
        collective = collective_named(str(facts[kind]))
        size_bytes = int(facts[f"{kind}_msg_size_bytes"])
        ranks = int(header["n_ranks"])
        if collective in _OF_ONE_RANK:
            size_bytes *= ranks
        group = str(header["id"])
        duration_ns = round(float(facts[f"{kind}_exec_time_us"]) * _NS_PER_US)
        sequence = int(facts[f"{kind}_sn"])
        pid = metadata.get("pid")
        operation = Operation(
            communicator=str(header.get("comm_name") or f"communicator {group}"),
            group=group,
            collective=collective,
            size_bytes=size_bytes,
            record=sequence,
            sequence=sequence if kind == "coll" else None,
            rank=int(header["rank"]),
            ranks=ranks,
            duration_ns=duration_ns if duration_ns > 0 else None,
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CollectorError(f"no line of the NCCL Inspector ({type(error).__name__})") from error
    return (pid if type(pid) is int else None), operation
