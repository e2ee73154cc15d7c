"""`apportion replay`: a recorded trace, apportioned without an agent."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from apportion.agent.cli.command import Command
from apportion.agent.cli.decimal_option import decimal_of, shown
from apportion.agent.cli.listing import add_format, render
from apportion.core.category import Category
from apportion.core.device_facts import DeviceFacts
from apportion.core.errors import ConfigError, TraceFileError
from apportion.core.units import MJ_PER_JOULE, NS_PER_SECOND, UNITS_PER_CURRENCY
from apportion.cost.methods.model_catalogue import known_models, named_model
from apportion.cost.methods.model_facts import ModelFacts
from apportion.cost.methods.roofline import Roofline
from apportion.cost.methods.trace import Trace
from apportion.cost.price_row import MAX_UNITS_PER_HOUR
from apportion.cost.replay.iterations_file import read_iterations
from apportion.cost.replay.replay import replay, shares_of
from apportion.cost.replay.requests_file import read_requests

if TYPE_CHECKING:
    from apportion.cost.methods.shares import TraceShares
    from apportion.cost.replay.iterations_file import IterationRows
    from apportion.cost.replay.replay import Replayed, ReplayedCategory, ReplayedRequest

COLUMNS: Final = ("request_id", "device_seconds", "cost", "energy_j", "allocation_method")
JSON_COLUMNS: Final = (*COLUMNS, "recompute_cost", "cost_per_output_token")
MAX_DEVICES: Final = 1_024
_MAX_JOULES: Final = 10**15
_RESERVED: Final = frozenset(category.label for category in Category)


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--requests", required=True, type=Path, metavar="FILE.csv", help="the requests' windows"
    )
    parser.add_argument(
        "--iterations",
        type=Path,
        metavar="FILE.jsonl",
        help="the engine's iterations, by request id or by counts",
    )
    parser.add_argument("--device", required=True, metavar="NAME", help="NVML's name of the device")
    parser.add_argument(
        "--devices", default="1", metavar="N", help="how many work as one (default: 1)"
    )
    parser.add_argument(
        "--model", required=True, metavar="NAME", help="a model's name, or a config.json's path"
    )
    parser.add_argument(
        "--rate", required=True, metavar="PRICE", help="money per device-hour, as a decimal"
    )
    parser.add_argument(
        "--energy-j", metavar="J", help="joules that the devices used over the trace, to divide"
    )
    add_format(parser, default="csv")


def _run(options: argparse.Namespace) -> int:
    units_per_hour = decimal_of("--rate", options.rate) * UNITS_PER_CURRENCY
    if units_per_hour > MAX_UNITS_PER_HOUR:
        raise ConfigError(f"--rate {options.rate} is above 9.2 million a device-hour")
    energy_mj = None
    if options.energy_j is not None:
        energy_mj = round(decimal_of("--energy-j", options.energy_j) * MJ_PER_JOULE)
        if energy_mj > _MAX_JOULES * MJ_PER_JOULE:
            raise ConfigError(f"--energy-j {options.energy_j} is above 10^15")
    devices = _devices(options.devices)
    rows = read_requests(options.requests)
    for row in rows:
        if row.request_id in _RESERVED:
            raise TraceFileError(
                f"a request is called {row.request_id!r}, as a category is; rename it",
                path=options.requests,
            )
    iterations = None if options.iterations is None else read_iterations(options.iterations)
    shares = _shares(options, Trace.of(rows), iterations, devices)
    replayed = replay(
        rows, shares, units_per_hour=units_per_hour, devices=devices, energy_mj=energy_mj
    )
    columns = JSON_COLUMNS if options.format == "json" else COLUMNS
    sys.stdout.write(render(_lines(replayed), columns, options.format))
    again = sum(part.recompute_units or 0 for part in replayed.requests)
    if again:
        sys.stderr.write(
            f"apportion replay: {shown(again, UNITS_PER_CURRENCY)} of the cost computed again "
            "what preemptions had thrown away (recompute_cost in --format json)\n"
        )
    return 0


def _shares(
    options: argparse.Namespace, trace: Trace, iterations: IterationRows | None, devices: int
) -> TraceShares:
    roofline = _roofline(options.device, options.model, devices)
    if iterations is not None:
        _check_times(options, trace, iterations)
    try:
        return shares_of(trace, iterations, roofline)
    except KeyError as unknown:
        raise TraceFileError(
            f"names request {unknown.args[0]!r}, which {options.requests} does not have; give "
            "both files of the same time",
            path=options.iterations,
        ) from unknown


def _roofline(device_name: str, model_name: str, devices: int) -> Roofline | None:
    """None, and a warning, where the device or the model is not known."""
    device = DeviceFacts.named(device_name)
    path = Path(model_name)
    is_file = path.suffix == ".json" or path.is_file()
    model = ModelFacts.from_config(path) if is_file else named_model(model_name)
    if device is not None and model is not None:
        return Roofline.of(model, *[device] * devices)
    missing: list[str] = []
    if device is None:
        missing.append(f"device {device_name!r} (known: {', '.join(DeviceFacts.names())})")
    if model is None:
        known = ", ".join(known_models())
        missing.append(f"model {model_name!r} (known: {known}; or give its config.json)")
    sys.stderr.write(
        f"apportion replay: no facts about {' and '.join(missing)}: "
        "apportioned by tokens (token-share/1)\n"
    )
    return None


def _check_times(options: argparse.Namespace, trace: Trace, rows: IterationRows) -> None:
    first_ns, last_ns = int(trace.start_ns.min()), int(trace.finish_ns.max())
    ends = [row.end_ns for row in rows.batches] + [row.end_ns for row in rows.counts]
    if not any(first_ns <= end_ns <= last_ns for end_ns in ends):
        raise TraceFileError(
            f"no iteration ends between the first start and the last finish of "
            f"{options.requests}: the two files have different clocks",
            path=options.iterations,
        )


def _lines(replayed: Replayed) -> list[dict[str, object]]:
    method = replayed.allocation_method
    lines = [
        {**_line(part.request.request_id, part, method), **_of_request(part)}
        for part in replayed.requests
    ]
    return lines + [_line(part.category.label, part, method) for part in replayed.spanless]


def _line(name: str, part: ReplayedRequest | ReplayedCategory, method: str) -> dict[str, object]:
    return {
        "request_id": name,
        "device_seconds": shown(part.device_ns, NS_PER_SECOND),
        "cost": shown(part.units, UNITS_PER_CURRENCY),
        "energy_j": None if part.energy_mj is None else shown(part.energy_mj, MJ_PER_JOULE),
        "allocation_method": method,
    }


def _of_request(part: ReplayedRequest) -> dict[str, object]:
    """What it paid twice, and what each token that it delivered cost, rounded down."""
    again, delivered = part.recompute_units, part.request.output_tokens
    return {
        "recompute_cost": None if again is None else shown(again, UNITS_PER_CURRENCY),
        "cost_per_output_token": (
            shown(part.units // delivered, UNITS_PER_CURRENCY) if delivered else None
        ),
    }


def _devices(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= MAX_DEVICES:
        raise ConfigError(f"--devices {text!r} is not a whole number from 1 to {MAX_DEVICES}")
    return int(text)


COMMAND = Command(
    "Apportions a recorded trace over [first start, last finish]: a row for each request, and one "
    "for each category that no request has. Rows sum to the rate times the time, to the unit.",
    _configure,
    _run,
)
