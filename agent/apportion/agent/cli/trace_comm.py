"""`apportion trace comm`: collectives, their bandwidth, who waited, and what it cost a step."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Final

from apportion.agent.cli.decimal_option import decimal_of, shown
from apportion.agent.cli.listing import add_format, render
from apportion.agent.cli.said import say
from apportion.agent.cli.trace_inputs import add_inputs, named, reduced
from apportion.core.units import NS_PER_HOUR, UNITS_PER_CURRENCY
from apportion.profiles.rank_collectives import RankCollectives
from apportion.profiles.stragglers import Operation, matched

LISTS: Final = ("collectives", "steps", "operations")
COLLECTIVE_COLUMNS: Final = (
    "rank",
    "collective",
    "kernel",
    "group",
    "group_size",
    "ranks",
    "count",
    "bytes",
    "time_ms",
    "algbw_gb_s",
    "busbw_gb_s",
    "wire_ms",
    "wait_ms",
    "wire_busbw_gb_s",
)
OPERATION_COLUMNS: Final = (
    "rank",
    "step",
    "collective",
    "kernel",
    "group",
    "group_ranks",
    "group_size",
    "sequence",
    "ranks",
    "bytes",
    "time_us",
    "algbw_gb_s",
    "busbw_gb_s",
    "wire_us",
    "wait_us",
    "wire_busbw_gb_s",
)
STEP_COLUMNS: Final = (
    "rank",
    "step",
    "window_ms",
    "communication_ms",
    "exposed_ms",
    "wait_ms",
    "communication_pct",
    "exposed_pct",
)
COST_COLUMNS: Final = ("step_cost", "communication_cost", "exposed_cost")
Row = dict[str, object]


def configure_comm(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_inputs(parser)
    parser.add_argument(
        "--list", choices=LISTS, help="print this list alone (csv: collectives if not said)"
    )
    parser.add_argument(
        "--rate", metavar="PRICE", help="money per device-hour, as a decimal: adds what steps cost"
    )
    add_format(parser)
    parser.epilog = (
        "Wire time is the shortest of the ranks' kernels for one collective: give the traces of "
        "all ranks. Exit status 1: some file could not be used; stderr says which and why."
    )


def run_comm(options: argparse.Namespace) -> int:
    """Print it; the exit status."""
    rate = None
    if options.rate is not None:
        rate = decimal_of("--rate", options.rate) * UNITS_PER_CURRENCY
    traces, complete = reduced(options, RankCollectives.of)
    found = matched(traces)
    say(found.warnings)
    lists = {
        "collectives": list(_collectives(found.operations)),
        "steps": list(_steps(traces, found.operations, rate)),
        "operations": [_operation_row(one) for one in found.operations],
    }
    columns = {
        "collectives": COLLECTIVE_COLUMNS,
        "steps": STEP_COLUMNS + (() if rate is None else COST_COLUMNS),
        "operations": OPERATION_COLUMNS,
    }
    if options.format == "json":
        chosen = lists if options.list is None else {options.list: lists[options.list]}
        warnings = [f"{one.source}: {text}" for one in traces for text in one.warnings]
        document = {**chosen, "warnings": [*warnings, *found.warnings]}
        sys.stdout.write(f"{json.dumps(document, indent=2)}\n")
    elif options.format == "csv":
        name = options.list or LISTS[0]
        sys.stdout.write(render(lists[name], ("source", *columns[name]), "csv"))
    else:
        shown_lists = LISTS[:2] if options.list is None else (options.list,)
        tables = [render(named(lists[name]), columns[name], "table") for name in shown_lists]
        sys.stdout.write("\n".join(tables))
    return 0 if complete else 1


def _operation_row(one: Operation) -> Row:
    own = one.own
    return {
        "source": one.trace.source,
        "rank": one.trace.rank,
        "step": own.step,
        "collective": own.name,
        "kernel": own.kernel,
        "group": own.group,
        "group_ranks": own.group_ranks,
        "group_size": own.group_size,
        "sequence": own.sequence,
        "ranks": one.ranks,
        "bytes": own.size_bytes,
        "time_us": own.duration_ns / 1e3,
        "algbw_gb_s": _giga(own.algorithm_bandwidth(own.duration_ns)),
        "busbw_gb_s": _giga(own.bus_bandwidth(own.duration_ns)),
        "wire_us": None if one.wire_ns is None else one.wire_ns / 1e3,
        "wait_us": None if one.wait_ns is None else one.wait_ns / 1e3,
        "wire_busbw_gb_s": None if one.wire_ns is None else _giga(own.bus_bandwidth(one.wire_ns)),
    }


def _collectives(operations: Sequence[Operation]) -> Iterator[Row]:
    """A row for each rank, kind and group; bandwidths are of all its bytes in all its time."""
    together: dict[tuple[object, ...], list[Operation]] = {}
    for one in operations:
        own = one.own
        key = (one.trace.source, own.name, own.kernel, own.group, own.group_ranks)
        together.setdefault(key, []).append(one)
    for members in together.values():
        first = members[0]
        sizes = [one.own.size_bytes for one in members]
        size_bytes = sum(size for size in sizes if size is not None)
        time_ns = sum(one.own.duration_ns for one in members)
        wires = [one.wire_ns for one in members]
        wire_ns = sum(wire for wire in wires if wire is not None)
        whole = replace(first.own, size_bytes=None if None in sizes else size_bytes)
        is_matched = None not in wires
        yield {
            "source": first.trace.source,
            "rank": first.trace.rank,
            "collective": first.own.name,
            "kernel": first.own.kernel,
            "group": first.own.group,
            "group_size": first.own.group_size,
            "ranks": min(one.ranks for one in members),
            "count": len(members),
            "bytes": whole.size_bytes,
            "time_ms": time_ns / 1e6,
            "algbw_gb_s": _giga(whole.algorithm_bandwidth(time_ns)),
            "busbw_gb_s": _giga(whole.bus_bandwidth(time_ns)),
            "wire_ms": wire_ns / 1e6 if is_matched else None,
            "wait_ms": (time_ns - wire_ns) / 1e6 if is_matched else None,
            "wire_busbw_gb_s": _giga(whole.bus_bandwidth(wire_ns)) if is_matched else None,
        }


def _steps(
    traces: Sequence[RankCollectives], operations: Sequence[Operation], rate: Fraction | None
) -> Iterator[Row]:
    for trace in traces:
        own = [one for one in operations if one.trace is trace]
        for step in (*trace.steps, trace.whole):
            inside = own if step is trace.whole else [o for o in own if o.own.step == step.number]
            waits = [one.wait_ns for one in inside]
            known = [wait for wait in waits if wait is not None]
            communication_ns = step.device.communication_ns
            exposed_ns = step.device.exposed_communication_ns
            window_ns = step.window_ns
            if window_ns is None and not trace.steps:
                window_ns = step.device.span_ns
            yield {
                "source": trace.source,
                "rank": trace.rank,
                "step": step.name if step.number is None else step.number,
                "window_ms": None if window_ns is None else window_ns / 1e6,
                "communication_ms": communication_ns / 1e6,
                "exposed_ms": exposed_ns / 1e6,
                "wait_ms": sum(known) / 1e6 if len(known) == len(waits) else None,
                "communication_pct": _percent(communication_ns, window_ns),
                "exposed_pct": _percent(exposed_ns, window_ns),
                "step_cost": _cost(window_ns, rate),
                "communication_cost": _cost(communication_ns, rate),
                "exposed_cost": _cost(exposed_ns, rate),
            }


def _cost(duration_ns: int | None, rate: Fraction | None) -> str | None:
    if rate is None or duration_ns is None:
        return None
    return shown(int(duration_ns * rate / NS_PER_HOUR), UNITS_PER_CURRENCY)


def _giga(bytes_per_s: float | None) -> float | None:
    return None if bytes_per_s is None else round(bytes_per_s / 1e9, 3)


def _percent(part_ns: int, whole_ns: int | None) -> float | None:
    return round(100 * part_ns / whole_ns, 2) if whole_ns else None
