"""`apportion trace roofline`: how near kernels or runs come to what their device can do."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from apportion.agent.cli.listing import add_format, render
from apportion.agent.cli.said import say
from apportion.agent.cli.trace_inputs import add_inputs, reduced
from apportion.core.device_facts import DeviceFacts
from apportion.core.errors import ConfigError, ProfileTraceError
from apportion.core.units import NS_PER_SECOND
from apportion.profiles.ncu_report import UNVERIFIED, by_kernel, is_ncu_report, read_ncu
from apportion.profiles.rank_work import RankWork
from apportion.profiles.roofline import Measured, Roof
from apportion.profiles.roofline_svg import roofline_svg

COLUMNS: Final = (
    "source",
    "name",
    "device",
    "calls",
    "time_ms",
    "flop",
    "bytes",
    "flop_per_byte",
    "achieved_gflop_s",
    "attainable_gflop_s",
    "of_attainable_pct",
    "achieved_gb_s",
    "bound",
    "mfu_pct",
    "mbu_pct",
)
SHOWN_NAME: Final = 50
_POINT: Final = "--point"
_LEAST, _MOST = 1e-30, 1e30


def configure_roofline(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_inputs(parser, least="*")
    parser.add_argument(
        "--point",
        action="append",
        default=[],
        metavar="NAME=FLOP,BYTES,SECONDS",
        help="a run by its figures, from an engine's estimates or DCGM's counters (repeatable)",
    )
    parser.add_argument(
        "--device", metavar="NAME", help="NVML's name of the device, where no file says it"
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write the picture, too")
    add_format(parser)
    parser.epilog = (
        "Of a table of `ncu --csv --page raw` every kernel; of a trace of torch.profiler with "
        "shapes the whole run, from matrix products; such a trace does not say what memory moved, "
        "so that it has no intensity and no dot."
    )


def run_roofline(options: argparse.Namespace) -> int:
    """Print it, and draw it where that is asked for; the exit status."""
    given = _facts(options.device) if options.device is not None else None
    points = [_point(text, given) for text in options.point]
    reports = [path for path in options.files if is_ncu_report(path)]
    options.files = [path for path in options.files if path not in reports]
    if not (points or reports or options.files):
        raise ConfigError("name a FILE, or a --point")
    measured = [*points]
    refused: list[ProfileTraceError] = []
    for path in reports:
        try:
            measured += by_kernel(read_ncu(path, given))
        except ProfileTraceError as error:  # noqa: PERF203 - one bad file harms no other
            refused.append(error)
    if reports:
        say([UNVERIFIED])
    works: list[RankWork] = []
    is_complete = True
    if options.files:
        works, is_complete = reduced(options, RankWork.of)
        measured += [_run(work, given) for work in works]
    if refused and not measured:
        raise refused[0]
    say(map(str, refused))
    unknown = {work.source: work.device_name for work in works if _facts_of(work, given) is None}
    if points and given is None:
        unknown[_POINT] = None
    peaks = {source: _unknown_peaks(name) for source, name in unknown.items()}
    say(f"{source}: {text}" for source, text in peaks.items())
    doubts = {work.source: [*work.warnings, *filter(None, [work.unverified])] for work in works}
    doubts |= {str(path): [UNVERIFIED] for path in reports}
    for source, text in peaks.items():
        doubts.setdefault(source, []).append(text)
    if options.svg is not None:
        is_complete = _draw(options.svg, measured) and is_complete
    rows = [{**_row(one), "warnings": doubts.get(one.source, [])} for one in measured]
    if options.format == "table":
        rows = [{**row, "name": _short(str(row["name"]))} for row in rows]
    columns = (*COLUMNS, "warnings") if options.format == "json" else COLUMNS
    sys.stdout.write(render(rows, columns, options.format))
    return 0 if is_complete and not refused else 1


def _draw(path: Path, measured: Sequence[Measured]) -> bool:
    """Write the picture; whether there is anything in it."""
    if not any(one.intensity and one.flop_per_s for one in measured):
        message = (
            f"{path}: not written: nothing here has both operations and bytes, so there is no dot; "
            "give a table of Nsight Compute, or a --point"
        )
        say([message])
        return False
    try:
        path.write_text(roofline_svg(measured), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", path=path) from error
    return True


def _facts_of(work: RankWork, given: DeviceFacts | None) -> DeviceFacts | None:
    """Of the device that was given, else of the one that the trace names."""
    if given is not None or work.device_name is None:
        return given
    return DeviceFacts.named(work.device_name)


def _unknown_peaks(device: str | None) -> str:
    named = "names no device" if device is None else f"is of {device!r}"
    known = ", ".join(DeviceFacts.names())
    return f"{named}, so its peaks are unknown; give --device, one of {known}"


def _run(work: RankWork, given: DeviceFacts | None) -> Measured:
    return Measured(
        source=work.source,
        name="the run" if work.rank is None else f"the run of rank {work.rank}",
        calls=1,
        duration_ns=work.duration_ns,
        flop=work.flop,
        size_bytes=None,
        roof=_roof(_facts_of(work, given), work.device_name),
    )


def _point(text: str, given: DeviceFacts | None) -> Measured:
    name, _, figures = text.rpartition("=")
    try:
        flop, size_bytes, seconds = (float(figure) for figure in figures.split(","))
    except ValueError:
        flop = size_bytes = seconds = math.nan
    if not name or not all(_LEAST < figure < _MOST for figure in (flop, size_bytes, seconds)):
        raise ConfigError(f"--point {text!r} is not NAME=FLOP,BYTES,SECONDS with numbers above 0")
    return Measured(
        source=_POINT,
        name=name,
        calls=1,
        duration_ns=round(seconds * NS_PER_SECOND),
        flop=flop,
        size_bytes=size_bytes,
        roof=_roof(given, None),
    )


def _facts(name: str) -> DeviceFacts:
    facts = DeviceFacts.named(name)
    if facts is None:
        raise ConfigError(
            f"--device {name!r} is not known; known: {', '.join(DeviceFacts.names())}"
        )
    return facts


def _roof(facts: DeviceFacts | None, name: str | None) -> Roof:
    if facts is None:
        return Roof(name or "unknown device", None, None)
    return Roof(f"{facts.name}, 16-bit tensor", facts.flop_per_s, facts.bytes_per_s)


def _row(one: Measured) -> dict[str, object]:
    return {
        "source": one.source,
        "name": one.name,
        "device": one.roof.name,
        "calls": one.calls,
        "time_ms": one.duration_ns / 1e6,
        "flop": one.flop,
        "bytes": one.size_bytes,
        "flop_per_byte": _rounded(one.intensity),
        "achieved_gflop_s": _rounded(one.flop_per_s, 1e9),
        "attainable_gflop_s": _rounded(one.attainable_flop_per_s, 1e9),
        "of_attainable_pct": _rounded(one.of_attainable, 0.01),
        "achieved_gb_s": _rounded(one.bytes_per_s, 1e9),
        "bound": one.bound,
        "mfu_pct": _rounded(one.mfu, 0.01),
        "mbu_pct": _rounded(one.mbu, 0.01),
    }


def _rounded(value: float | None, one: float = 1.0) -> float | None:
    return None if value is None else round(value / one, 3)


def _short(name: str) -> str:
    return name if len(name) <= SHOWN_NAME else f"{name[: SHOWN_NAME - 1]}…"
