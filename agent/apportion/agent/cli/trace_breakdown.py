"""`apportion trace breakdown`: busy, idle and why, by rank and step."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from apportion.agent.cli.listing import add_format, render
from apportion.agent.cli.trace_inputs import add_inputs, named, reduced
from apportion.profiles.breakdown import Breakdown, Idle
from apportion.profiles.kernel_type import KernelType
from apportion.profiles.rank_breakdown import RankBreakdown, StepBreakdown

SHOWN_KERNELS: Final = 10
SHOWN_NAME: Final = 60
LISTS: Final = ("steps", "types", "kernels", "streams")
STEP_COLUMNS: Final = (
    "rank",
    "step",
    "window_ms",
    "data_wait_ms",
    "span_ms",
    "busy_ms",
    "compute_ms",
    "communication_ms",
    "exposed_ms",
    "overlapped_ms",
    "memory_ms",
    "idle_ms",
    "host_wait_ms",
    "kernel_wait_ms",
    "other_idle_ms",
)
SHARE_COLUMNS: Final = (
    "rank",
    "step",
    "busy_pct",
    "compute_pct",
    "non_compute_pct",
    "communication_pct",
    "exposed_pct",
    "overlap_pct",
    "idle_pct",
)
TYPE_COLUMNS: Final = ("rank", "types", "total_ms", "busy_pct")
KERNEL_COLUMNS: Final = (
    "rank",
    "kernel",
    "type",
    "count",
    "total_ms",
    "time_pct",
    "mean_us",
    "min_us",
    "max_us",
)
STREAM_COLUMNS: Final = (
    "rank",
    "device",
    "stream",
    "idle_ms",
    "host_wait_ms",
    "kernel_wait_ms",
    "other_idle_ms",
)
_COLUMNS: Final = {
    "steps": STEP_COLUMNS + SHARE_COLUMNS[2:],
    "types": TYPE_COLUMNS,
    "kernels": KERNEL_COLUMNS,
    "streams": STREAM_COLUMNS,
}
Row = dict[str, object]


def configure_breakdown(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_inputs(parser)
    parser.add_argument(
        "--list", choices=LISTS, help="print this list alone (csv: steps if not said)"
    )
    parser.add_argument(
        "--drop-last-step",
        action="store_true",
        help="leave out the last step, which may be incomplete, as HolisticTraceAnalysis does",
    )
    parser.add_argument(
        "--whole-microseconds",
        action="store_true",
        help="shrink events to whole microseconds, for figures equal to HolisticTraceAnalysis'",
    )
    add_format(parser)
    parser.epilog = "Exit status 1: some file could not be used; stderr says which and why."


def run_breakdown(options: argparse.Namespace) -> int:
    """Print it; the exit status."""
    reduce = partial(
        RankBreakdown.of,
        drop_last_step=options.drop_last_step,
        whole_microseconds=options.whole_microseconds,
    )
    ranks, complete = reduced(options, reduce)
    if options.format == "json":
        lists = LISTS if options.list is None else (options.list,)
        document = [_document(rank, lists) for rank in ranks]
        sys.stdout.write(f"{json.dumps(document, indent=2)}\n")
    elif options.format == "csv":
        name = options.list or LISTS[0]
        rows = [row for rank in ranks for row in _LISTS[name](rank)]
        sys.stdout.write(render(rows, ("source", *_COLUMNS[name]), "csv"))
    elif options.list is not None:
        rows = named(row for rank in ranks for row in _LISTS[options.list](rank))
        sys.stdout.write(render(rows, _COLUMNS[options.list], "table"))
    else:
        _print_tables(ranks)
    return 0 if complete else 1


def _document(rank: RankBreakdown, lists: Sequence[str]) -> Row:
    return {
        "source": rank.source,
        "rank": rank.rank,
        "world_size": rank.world_size,
        "device": rank.device_name,
        **{
            name: [
                {key: value for key, value in row.items() if key not in {"source", "rank"}}
                for row in _LISTS[name](rank)
            ]
            for name in lists
        },
        "warnings": list(rank.warnings),
        "unverified": rank.unverified,
    }


def _print_tables(ranks: list[RankBreakdown]) -> None:
    steps = named(row for rank in ranks for row in _steps(rank))
    sys.stdout.write(render(steps, STEP_COLUMNS, "table"))
    sys.stdout.write(f"\n{render(steps, SHARE_COLUMNS, 'table')}")
    types = named(row for rank in ranks for row in _types(rank))
    sys.stdout.write(f"\n{render(types, TYPE_COLUMNS, 'table')}")
    kernels: list[Row] = []
    for rank in ranks:
        for row in list(_kernels(rank))[:SHOWN_KERNELS]:
            name = str(row["kernel"])
            short = name if len(name) <= SHOWN_NAME else f"{name[: SHOWN_NAME - 1]}…"
            kernels.append({**row, "kernel": short})
    sys.stdout.write(f"\n{render(named(kernels), KERNEL_COLUMNS, 'table')}")


def _steps(rank: RankBreakdown) -> Iterator[Row]:
    for step in (*rank.steps, rank.whole):
        yield {"source": rank.source, "rank": rank.rank, **_step(step)}


def _step(step: StepBreakdown) -> Row:
    device = step.device
    return {
        "step": step.name if step.number is None else step.number,
        "window_ms": _ms(step.window_ns),
        "data_wait_ms": _ms(step.data_wait_ns),
        "span_ms": _ms(device.span_ns),
        "busy_ms": _ms(device.busy_ns),
        "compute_ms": _ms(device.compute_ns),
        "communication_ms": _ms(device.communication_ns),
        "exposed_ms": _ms(device.exposed_communication_ns),
        "overlapped_ms": _ms(device.overlapped_communication_ns),
        "memory_ms": _ms(device.memory_ns),
        **_idle(device.idle),
        **_shares(device),
    }


def _idle(idle: Idle) -> Row:
    return {
        "idle_ms": _ms(idle.total_ns),
        "host_wait_ms": _ms(idle.host_wait_ns),
        "kernel_wait_ms": _ms(idle.kernel_wait_ns),
        "other_idle_ms": _ms(idle.other_ns),
    }


def _shares(device: Breakdown) -> Row:
    span_ns = device.span_ns
    return {
        "busy_pct": _percent(device.busy_ns, span_ns),
        "compute_pct": _percent(device.compute_ns, span_ns),
        "non_compute_pct": _percent(device.non_compute_ns, span_ns),
        "communication_pct": _percent(device.communication_ns, span_ns),
        "exposed_pct": _percent(device.exposed_communication_ns, span_ns),
        "overlap_pct": _percent(device.overlapped_communication_ns, device.communication_ns),
        "idle_pct": _percent(device.idle_ns, span_ns),
    }


def _types(rank: RankBreakdown) -> Iterator[Row]:
    """How long exactly each set of types ran: the rows sum to busy."""
    device = rank.whole.device
    for mask in sorted(range(len(device.masks_ns)), key=lambda mask: -device.masks_ns[mask]):
        if device.masks_ns[mask]:
            yield {
                "source": rank.source,
                "rank": rank.rank,
                "types": " + ".join(kind.label for kind in KernelType if mask >> kind & 1),
                "total_ms": _ms(device.masks_ns[mask]),
                "busy_pct": _percent(device.masks_ns[mask], device.busy_ns),
            }


def _kernels(rank: RankBreakdown) -> Iterator[Row]:
    for kernel in rank.kernels:
        yield {
            "source": rank.source,
            "rank": rank.rank,
            "kernel": kernel.name,
            "type": kernel.type.label,
            "count": kernel.events,
            "total_ms": _ms(kernel.total_ns),
            "time_pct": _percent(kernel.total_ns, rank.whole.device.event_ns),
            "mean_us": round(kernel.total_ns / kernel.events / 1e3, 3),
            "min_us": kernel.shortest_ns / 1e3,
            "max_us": kernel.longest_ns / 1e3,
        }


def _streams(rank: RankBreakdown) -> Iterator[Row]:
    for stream in rank.streams:
        where: Row = {"source": rank.source, "rank": rank.rank}
        yield {**where, "device": stream.device, "stream": stream.stream, **_idle(stream.idle)}


_LISTS: Final = {"steps": _steps, "types": _types, "kernels": _kernels, "streams": _streams}


def _ms(duration_ns: int | None) -> float | None:
    return None if duration_ns is None else duration_ns / 1e6


def _percent(part_ns: int, whole_ns: int) -> float | None:
    return round(100 * part_ns / whole_ns, 2) if whole_ns else None
