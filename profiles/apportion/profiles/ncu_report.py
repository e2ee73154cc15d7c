"""A report of Nsight Compute (`ncu --csv --page raw`): every kernel's work, traffic and time.

UNVERIFIED: built from the documented form and names of metrics (Nsight Compute CLI, "CSV output";
Kernel Profiling Guide, "Metrics Reference"); no real report has been read by it yet.

The first row that begins with "ID" names the columns, the next one their units, which ncu scales
(`usecond`, `Mbyte`); lines before it (`==PROF==`) are the program's and ncu's own output.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from apportion.core.device_facts import DeviceFacts
from apportion.core.errors import ProfileTraceError
from apportion.profiles.roofline import Measured, Roof

UNVERIFIED: Final = (
    "UNVERIFIED: this reader follows the documented form of ncu --csv --page raw; no real report "
    "has been read by it yet"
)
_NAME: Final = "Kernel Name"
_DEVICE_NAME: Final = "device__attribute_display_name"
_TIME: Final = "gpu__time_duration.sum"
_SM_CLOCK: Final = "sm__cycles_elapsed.avg.per_second"
_SMSP_CLOCK: Final = "smsp__cycles_elapsed.avg.per_second"
_DRAM_CLOCK: Final = "dram__cycles_elapsed.avg.per_second"
_INSTRUCTION: Final = "sass_thread_inst_executed_op"
_PRECISIONS: Final = {"fp64": "d", "fp32": "f", "fp16": "h"}
_OPERATIONS: Final = {"add": 1, "mul": 1, "fma": 2}
_TENSOR_PREFIX: Final = "sm__ops_path_tensor_src_"
_TENSOR_FLOATS: Final = ("fp", "bf", "tf")
_PREFIXES: Final = {
    "": 1.0,
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    "K": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
}
_BASES: Final = ("second", "byte", "inst", "cycle", "hz", "s", "b")
_MOST: Final = 1e30
"""No count and no rate is that high."""
Row = Mapping[str, float]


def is_ncu_report(path: Path) -> bool:
    """Whether a file's beginning has the header of such a table."""
    try:
        with path.open("rb") as file:
            return b'"Kernel Name"' in file.read(1 << 20)
    except OSError:
        return False


def read_ncu(path: Path, device: DeviceFacts | None = None) -> tuple[Measured, ...]:
    """A row for each launch, in the report's order; `device` where the report names none.

    Raises:
        ProfileTraceError: it is no such report, or has no time of any kernel.
    """
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            found = tuple(_launches(csv.reader(file), path, device))
    except OSError as error:
        raise ProfileTraceError(f"cannot be read: {error.strerror}", path=path) from error
    except csv.Error as error:
        raise ProfileTraceError(f"is no table in CSV: {error}", path=path) from error
    if not found:
        raise ProfileTraceError(
            "has no row of a kernel with its time; make it by ncu --set full -o REPORT ..., then "
            "ncu --import REPORT.ncu-rep --csv --page raw",
            path=path,
        )
    return found


def by_kernel(launches: tuple[Measured, ...]) -> tuple[Measured, ...]:
    """Launches of one name summed, the longest first; a measure that any lacks is None."""
    together: dict[tuple[str, Roof], Measured] = {}
    for one in launches:
        key = (one.name, one.roof)
        so_far = together.get(key)
        together[key] = (
            one
            if so_far is None
            else replace(
                so_far,
                calls=so_far.calls + one.calls,
                duration_ns=so_far.duration_ns + one.duration_ns,
                flop=_sum(so_far.flop, one.flop),
                size_bytes=_sum(so_far.size_bytes, one.size_bytes),
            )
        )
    return tuple(sorted(together.values(), key=lambda one: -one.duration_ns))


def _launches(
    rows: Iterator[list[str]], path: Path, device: DeviceFacts | None
) -> Iterator[Measured]:
    header: list[str] = []
    scales: list[float] = []
    for cells in rows:
        if cells[:1] == ["ID"] and _NAME in cells:
            header, scales = cells, []
        elif header and not scales:
            scales = [_scale(cell) for cell in cells]
        elif header and len(cells) == len(header) == len(scales):
            texts = dict(zip(header, cells, strict=True))
            numbers: dict[str, float] = {}
            for name, scale in zip(header, scales, strict=True):
                with suppress(ValueError):
                    number = float(texts[name].replace(",", "")) * scale
                    if 0 <= number < _MOST:  # `nan` and `inf` are words for: not measured
                        numbers[name] = number
            if _TIME in numbers:
                facts = DeviceFacts.named(texts.get(_DEVICE_NAME, "")) or device
                yield _launch(texts[_NAME], facts, numbers, path)


def _launch(name: str, facts: DeviceFacts | None, row: Row, path: Path) -> Measured:
    seconds = row[_TIME]
    flops = {
        precision: _vector_flop(row, letter, seconds) for precision, letter in _PRECISIONS.items()
    }
    flops["tensor"] = _tensor_flop(row)
    known = {precision: flop for precision, flop in flops.items() if flop is not None}
    leading = max(known, key=lambda precision: known[precision]) if known else None
    return Measured(
        source=path.name,
        name=name,
        calls=1,
        duration_ns=round(seconds * 1e9),
        flop=sum(known.values()) if known else None,
        size_bytes=_dram_bytes(row, seconds),
        roof=Roof(
            f"{facts.name if facts else 'unknown device'}, {leading or 'no arithmetic measured'}",
            _peak_flop(row, leading, facts),
            _peak_bytes(row, facts),
        ),
    )


def _vector_flop(row: Row, letter: str, seconds: float) -> float | None:
    """Of one precision outside of tensor cores; predicated-on thread instructions, fma twice."""
    total = 0.0
    for operation, weight in _OPERATIONS.items():
        stem = f"{_INSTRUCTION}_{letter}{operation}_pred_on.sum"
        count = row.get(f"sm__{stem}", row.get(f"smsp__{stem}"))
        if count is None:
            a_cycle, clock = row.get(f"smsp__{stem}.per_cycle_elapsed"), row.get(_SMSP_CLOCK)
            count = None if a_cycle is None or clock is None else a_cycle * clock * seconds
        if count is None:
            return None
        total += weight * count
    return total


def _tensor_flop(row: Row) -> float | None:
    """Of floats in tensor cores; integers are no floating point operations."""
    counts = [
        value
        for name, value in row.items()
        if name.startswith(_TENSOR_PREFIX)
        and name.endswith(".sum")
        and name[len(_TENSOR_PREFIX) :].startswith(_TENSOR_FLOATS)
    ]
    return sum(counts) if counts else None


def _dram_bytes(row: Row, seconds: float) -> float | None:
    if "dram__bytes.sum" in row:
        return row["dram__bytes.sum"]
    if "dram__bytes_read.sum" in row and "dram__bytes_write.sum" in row:
        return row["dram__bytes_read.sum"] + row["dram__bytes_write.sum"]
    rate = row.get("dram__bytes.sum.per_second")
    return None if rate is None else rate * seconds


def _peak_flop(row: Row, precision: str | None, facts: DeviceFacts | None) -> float | None:
    """The report's own peak of the precision, else for 16-bit and tensor work the data sheet's."""
    letter = _PRECISIONS.get(precision or "")
    sustained = row.get(f"sm__{_INSTRUCTION}_{letter}fma_pred_on.sum.peak_sustained")
    clock = row.get(_SM_CLOCK)
    if sustained is not None and clock is not None:
        return 2 * sustained * clock
    return facts.flop_per_s if facts is not None and precision in {"tensor", "fp16"} else None


def _peak_bytes(row: Row, facts: DeviceFacts | None) -> float | None:
    sustained, clock = row.get("dram__bytes.sum.peak_sustained"), row.get(_DRAM_CLOCK)
    if sustained is not None and clock is not None:
        return sustained * clock
    return None if facts is None else facts.bytes_per_s


def _scale(unit: str) -> float:
    """What a number of this unit is multiplied by to be in seconds, bytes, per second or plain."""
    scale = 1.0
    for place, part in enumerate(unit.split("/")):
        scale *= _part_scale(part) ** (1 if place == 0 else -1)
    return scale


def _part_scale(part: str) -> float:
    for base in _BASES:
        prefix = part[: -len(base)] if part.lower().endswith(base) else None
        if prefix in _PREFIXES:
            return _PREFIXES[prefix]
    return 1.0


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other
