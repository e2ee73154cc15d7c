"""`apportion prices import`: a price table from somebody's price list, whole or not at all."""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from apportion.core.clock import SystemClock
from apportion.core.errors import ConfigError, PriceTableError
from apportion.cost.price_row import BASES, CAPACITIES
from apportion.cost.prices.currency import CURRENCIES
from apportion.cost.prices.device_names import nvml_name, similar_names
from apportion.cost.prices.differences import differences
from apportion.cost.prices.importers.aws_spot import PRODUCT, read_aws_spot
from apportion.cost.prices.importers.opencost import read_opencost_csv, read_opencost_json
from apportion.cost.prices.importers.skypilot import read_skypilot, read_slurm
from apportion.cost.prices.instants import date_of, instant_text
from apportion.cost.prices.row_reader import MAX_INSTANCE_DEVICES
from apportion.cost.prices.table_file import replace_sources, table_rows

if TYPE_CHECKING:
    from datetime import date

    from apportion.cost.prices.importers.imported import Imported, Offer
    from apportion.cost.prices.table_file import TableRow

SOURCES: Final = ("skypilot", "slurm", "opencost-json", "opencost-csv", "aws-spot")


def configure_import(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("source", choices=SOURCES, metavar="SOURCE", help=", ".join(SOURCES))
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="the price list")
    parser.add_argument("--into", required=True, type=Path, metavar="TABLE.yaml")
    parser.add_argument("--as-of", required=True, metavar="DATE", help="when the prices held")
    parser.add_argument("--currency", default="USD", help="(default: USD)")
    parser.add_argument("--basis", choices=BASES, default="list", help="(default: list)")
    parser.add_argument("--strict", action="store_true", help="refuse what would be left out")
    wanted = parser.add_argument_group("what to take")
    wanted.add_argument(
        "--device",
        action="append",
        default=[],
        metavar="NAME",
        help="only this device; for opencost-json and aws-spot, which name none: what it is",
    )
    wanted.add_argument("--region", action="append", default=[], help="only this region")
    wanted.add_argument("--capacity", choices=CAPACITIES, help="only on-demand, or only spot")
    clouds = parser.add_argument_group("of one source")
    clouds.add_argument(
        "--cloud", metavar="NAME", help="skypilot: the cloud (default: the file's or folder's name)"
    )
    clouds.add_argument("--devices", metavar="N", help="aws-spot: how many an instance has")
    clouds.add_argument(
        "--instance-type", metavar="NAME", help="aws-spot: which, where there are several"
    )
    clouds.add_argument(
        "--product", metavar="NAME", default=PRODUCT, help=f"aws-spot: (default: {PRODUCT})"
    )


def run_import(options: argparse.Namespace) -> int:
    """Read, choose, write; then say what was taken, what changed, and what was left out."""
    as_of = _as_of(options.as_of)
    if options.currency not in CURRENCIES:
        raise ConfigError(f"--currency {options.currency!r} is not a code of ISO 4217 such as USD")
    if options.into.suffix.lower() == ".csv":
        raise ConfigError("--into writes YAML; give a path such as prices.yaml")
    devices = [_device(name) for name in options.device]
    rows: list[TableRow] = []
    left_out: Counter[str] = Counter()
    by_source = _by_source(options, devices)
    for source, imported in by_source.items():
        imported.offers = [o for o in imported.offers if _wanted(options, o, devices)]
        rows += table_rows(
            imported.settled(),
            currency=options.currency,
            basis=options.basis,
            source=source,
            as_of=as_of,
        )
        left_out += imported.left_out
    if options.strict and left_out:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in sorted(left_out.items()))
        raise PriceTableError(f"nothing was written, --strict: {reasons}")
    for reason, count in sorted(left_out.items()):
        sys.stderr.write(f"left out {count}: {reason}\n")
    before, after = replace_sources(options.into, rows, by_source)
    changes = [pair.change for pair in differences(before, after)]
    gone = changes.count("gone")
    sys.stdout.write(
        f"{options.into}: {len(rows)} rows of {', '.join(by_source)} as of {as_of}, "
        f"{len(after.rates)} in all; {len(changes) - gone} new or changed, {gone} gone\n"
    )
    return 0


def _by_source(options: argparse.Namespace, devices: list[str]) -> dict[str, Imported]:
    """What the files offer, under the name by which a later import finds it in the table.

    Of a catalogue that is the cloud's, of a history the instance type's, else the file's.
    """
    if options.source == "aws-spot":
        imported = _read_spot(options, devices)
        types = {dict(offer.match)["instance_type"] for offer in imported.offers}
        return {" ".join([options.source, *sorted(types)]): imported}
    found: dict[str, Imported] = {}
    for path in options.files:
        imported = _read(options, path, devices)
        together = found.setdefault(f"{options.source} {_cloud(options, path)}", imported)
        if together is not imported:
            together.offers += imported.offers
            together.left_out += imported.left_out
    return found


def _read(options: argparse.Namespace, path: Path, devices: list[str]) -> Imported:
    if options.source == "skypilot":
        return read_skypilot(path, _cloud(options, path))
    if options.source == "slurm":
        return read_slurm(path)
    if options.source == "opencost-csv":
        return read_opencost_csv(path)
    return read_opencost_json(path, devices)


def _read_spot(options: argparse.Namespace, devices: list[str]) -> Imported:
    count: str | None = options.devices
    if len(devices) != 1 or count is None:
        raise ConfigError(
            "a spot price is one instance's, and its history names no device: say --device NAME "
            "and --devices N"
        )
    whole = int(count) if re.fullmatch(r"[0-9]{1,4}", count) else 0
    if not 1 <= whole <= MAX_INSTANCE_DEVICES:
        raise ConfigError(f"--devices {count!r} is not a number from 1 to {MAX_INSTANCE_DEVICES}")
    return read_aws_spot(
        options.files,
        device=devices[0],
        devices=whole,
        instance_type=options.instance_type,
        product=options.product,
    )


def _cloud(options: argparse.Namespace, path: Path) -> str:
    named: str | None = options.cloud
    if named:
        return named
    return path.parent.name if path.stem == "vms" else path.stem


def _wanted(options: argparse.Namespace, offer: Offer, devices: list[str]) -> bool:
    match = dict(offer.match)
    return (
        (not devices or offer.device in devices)
        and (not options.region or _is_in(match, options.region))
        and (options.capacity is None or match.get("capacity") == options.capacity)
    )


def _is_in(match: dict[str, str], regions: list[str]) -> bool:
    """Whether the region is one of `regions`, or where only a zone is known, that it begins so."""
    if "region" in match:
        return match["region"] in regions
    return match.get("zone", "").startswith(tuple(regions))


def _device(name: str) -> str:
    known = nvml_name(name)
    if known is None:
        close = similar_names(name)
        hint = f" (did you mean {' or '.join(close)}?)" if close else ""
        sys.stderr.write(f"{name!r} is not known here{hint}; taken to be NVML's name\n")
    return known or name


def _as_of(text: str) -> date:
    try:
        as_of = date_of(text)
    except ValueError as failure:
        raise ConfigError(f"--as-of {text!r} is not a date such as 2026-05-01") from failure
    today = date_of(instant_text(SystemClock().realtime_ns())[:10])
    if as_of > today:
        raise ConfigError(f"--as-of {as_of} is in the future; say when the prices held")
    return as_of
