"""`apportion prices`: where prices come from, and what a device costs by which row."""

from __future__ import annotations

import argparse
import sys
from datetime import date, datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

from apportion.agent.cli.command import Command
from apportion.agent.cli.instant import unix_ns_of
from apportion.agent.cli.listing import add_format, render
from apportion.agent.cli.prices_owned import configure_owned, run_owned
from apportion.core.clock import SystemClock
from apportion.core.errors import ConfigError, PriceTableError
from apportion.core.units import NS_PER_SECOND
from apportion.cost.price_row import BASES, CAPACITIES, LABEL, MATCHED
from apportion.cost.prices.currency import CURRENCIES
from apportion.cost.prices.device_names import nvml_name, similar_names
from apportion.cost.prices.importers.imported import Imported
from apportion.cost.prices.importers.opencost import read_opencost_csv, read_opencost_json
from apportion.cost.prices.importers.skypilot import read_skypilot, read_slurm
from apportion.cost.prices.table_file import table_rows, write_table
from apportion.cost.rate import PriceTable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apportion.cost.price_row import Rate
    from apportion.cost.prices.importers.imported import Offer

SOURCES: Final = ("skypilot", "slurm", "opencost-json", "opencost-csv")
COLUMNS: Final = (
    *("device", "per_hour", "currency", "covers", "basis", "match", "from", "to", "source"),
    *("as_of", "line"),
)
OLD_DAYS: Final = 90


def _configure(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _configure_import(commands.add_parser("import", help="write a table from a price list"))
    listing = commands.add_parser("list", help="the rows of a table")
    listing.add_argument("table", type=Path, metavar="TABLE")
    listing.add_argument("--device", metavar="NAME", help="only this device's")
    add_format(listing)
    quote = commands.add_parser("quote", help="what a device costs, and by which row")
    quote.add_argument("table", type=Path, metavar="TABLE")
    quote.add_argument("device", metavar="DEVICE", help="NVML's or a cloud's name of it")
    quote.add_argument("--at", metavar="WHEN", help="a date or time in UTC (default: now)")
    for name in MATCHED:
        quote.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", help="the node's")
    quote.add_argument("--label", action="append", default=[], metavar="NAME=VALUE")
    add_format(quote)
    diff = commands.add_parser("diff", help="what two tables say differently; exit status 1: much")
    diff.add_argument("before", type=Path, metavar="BEFORE")
    diff.add_argument("after", type=Path, metavar="AFTER")
    add_format(diff)
    configure_owned(commands.add_parser("owned", help="what hardware of one's own costs"))
    check = commands.add_parser("check", help="read a table and say what is doubtful about it")
    check.add_argument("table", type=Path, metavar="TABLE")


def _configure_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", choices=SOURCES, help="the kind of price list")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--into", required=True, type=Path, metavar="TABLE.yaml")
    parser.add_argument("--as-of", required=True, metavar="DATE", help="when the prices held")
    parser.add_argument("--currency", default="USD", help="(default: USD)")
    parser.add_argument("--basis", choices=BASES, default="list", help="(default: list)")
    parser.add_argument("--cloud", metavar="NAME", help="of SkyPilot's (default: the file's name)")
    parser.add_argument("--region", action="append", default=[], help="only these regions")
    parser.add_argument("--device", action="append", default=[], help="only these devices")
    parser.add_argument("--capacity", choices=CAPACITIES, help="only on-demand, or only spot")
    parser.add_argument("--strict", action="store_true", help="refuse what would be left out")


def _run(options: argparse.Namespace) -> int:
    status: int = _ACTIONS[options.action](options)
    return status


# -- import --------------------------------------------------------------------------------------
def _import(options: argparse.Namespace) -> int:
    today = _today()
    as_of = _date(options.as_of)
    if as_of > today:
        raise ConfigError(f"--as-of {as_of} is in the future; say when the prices held")
    if options.currency not in CURRENCIES:
        raise ConfigError(f"--currency {options.currency!r} is not a code of ISO 4217 such as USD")
    if options.into.suffix.lower() == ".csv":
        raise ConfigError("--into writes YAML; give a path such as prices.yaml")
    devices = [_device(name) for name in options.device]
    names = sorted({_cloud(options, path) for path in options.files})
    together = Imported(options.files[0])
    for path in options.files:
        imported = _read(options, path, devices)
        together.left_out += imported.left_out
        together.offers += [o for o in imported.offers if _wanted(options, o, devices)]
    found, left_out = together.settled(), together.left_out
    if options.strict and left_out:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in sorted(left_out.items()))
        raise PriceTableError(f"nothing was written, --strict: {reasons}")
    source = f"{options.source} {'+'.join(names)}"
    rows = table_rows(
        found, currency=options.currency, basis=options.basis, source=source, as_of=as_of
    )
    before = PriceTable.load(options.into) if options.into.exists() else PriceTable()
    table = write_table(options.into, rows, source)
    added, gone = _differences(before, table)
    sys.stdout.write(
        f"{options.into}: {len(found)} rows of {source!r} as of {as_of}, {len(table.rates)} in "
        f"all; {added} new or changed, {gone} gone\n"
    )
    for reason, count in sorted(left_out.items()):
        sys.stderr.write(f"left out {count}: {reason}\n")
    return 0


def _read(options: argparse.Namespace, path: Path, devices: list[str]) -> Imported:
    if options.source == "skypilot":
        return read_skypilot(path, _cloud(options, path))
    if options.source == "slurm":
        return read_slurm(path)
    if options.source == "opencost-csv":
        return read_opencost_csv(path)
    return read_opencost_json(path, devices)


def _cloud(options: argparse.Namespace, path: Path) -> str:
    named: str | None = options.cloud
    if named:
        return named
    return path.parent.name if path.stem == "vms" else path.stem


def _wanted(options: argparse.Namespace, offer: Offer, devices: list[str]) -> bool:
    match = dict(offer.match)
    return (
        (not devices or offer.device in devices)
        and (not options.region or match.get("region") in options.region)
        and (options.capacity is None or match.get("capacity") == options.capacity)
    )


# -- what a table says ---------------------------------------------------------------------------
def _list(options: argparse.Namespace) -> int:
    table = PriceTable.load(options.table)
    wanted = None if options.device is None else _device(options.device)
    rows = [_shown(rate) for rate in table.rates if wanted in {None, rate.device_name}]
    sys.stdout.write(render(rows, COLUMNS, options.format))
    return 0


def _quote(options: argparse.Namespace) -> int:
    table = PriceTable.load(options.table)
    now_ns = SystemClock().realtime_ns()
    at_ns = now_ns if options.at is None else unix_ns_of(options.at, now_ns)
    placement = {name: getattr(options, name) for name in MATCHED if getattr(options, name)}
    for pair in options.label:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--label {pair!r} is not NAME=VALUE")
        placement[f"{LABEL}{name}"] = value
    device = _device(options.device)
    quote = table.quote(device, placement, at_ns)
    if quote.rate is None:
        sys.stderr.write(f"apportion prices: {device}: no price: {quote.reason}\n")
        return 1
    row = {**_shown(quote.rate), "age_days": (_today() - quote.rate.as_of).days}
    sys.stdout.write(render([row], (*COLUMNS, "age_days"), options.format))
    return 0


def _diff(options: argparse.Namespace) -> int:
    tables = PriceTable.load(options.before), PriceTable.load(options.after)
    before, after = ({_place(rate): rate for rate in table.rates} for table in tables)
    rows: list[dict[str, object]] = []
    for place in sorted({*before, *after}):
        old, new = before.get(place), after.get(place)
        if old is not None and new is not None and old.units_per_hour == new.units_per_hour:
            continue
        known = new or old
        change = "changed" if old and new else "added" if new else "gone"
        rows.append(
            {
                **({} if known is None else _shown(known)),
                "change": change,
                "before": None if old is None else old.per_hour,
                "after": None if new is None else new.per_hour,
            }
        )
    columns = ("change", "device", "match", "from", "to", "before", "after", "currency")
    sys.stdout.write(render(rows, columns, options.format))
    return 1 if rows else 0


def _check(options: argparse.Namespace) -> int:
    table = PriceTable.load(options.table)
    today, doubts = _today(), list[str]()
    for rate in table.rates:
        where, age_days = f"{options.table}:{rate.line}", (today - rate.as_of).days
        if age_days < 0:
            doubts.append(f"{where}: as_of {rate.as_of} is in the future")
        elif age_days > OLD_DAYS:
            doubts.append(f"{where}: the price is {age_days} days old (as of {rate.as_of})")
        if nvml_name(rate.device_name) is None:
            close = similar_names(rate.device_name)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            doubts.append(f"{where}: {rate.device_name!r} is no device name known here{hint}")
    doubts += _gaps(table, options.table)
    for doubt in doubts:
        sys.stdout.write(f"{doubt}\n")
    sys.stdout.write(
        f"{options.table}: {len(table.rates)} rows in {table.currency}, {len(doubts)} doubts\n"
    )
    return 1 if doubts else 0


def _gaps(table: PriceTable, path: Path) -> list[str]:
    """Times between two rows of one device and match that no row covers."""
    found: list[str] = []
    by_place: dict[tuple[str, object], list[Rate]] = {}
    for rate in table.rates:
        by_place.setdefault((rate.device_name, rate.match), []).append(rate)
    for (device, _), rates in by_place.items():
        ordered = sorted(rates, key=lambda rate: rate.valid_from_ns or 0)
        for earlier, later in pairwise(ordered):
            if (earlier.valid_to_ns or 0) < (later.valid_from_ns or 0):
                found.append(
                    f"{path}:{later.line}: {device} has no price from {_time(earlier.valid_to_ns)} "
                    f"to {_time(later.valid_from_ns)}"
                )
    return found


def _differences(before: PriceTable, after: PriceTable) -> tuple[int, int]:
    """(rows that are new or cost something else, rows that are gone)."""
    old = {_place(rate): rate.units_per_hour for rate in before.rates}
    new = {_place(rate): rate.units_per_hour for rate in after.rates}
    changed = sum(old.get(place) != units for place, units in new.items())
    return changed, len(old.keys() - new.keys())


def _place(rate: Rate) -> tuple[str, str, int, int]:
    valid = (rate.valid_from_ns or 0, rate.valid_to_ns or 0)
    return (rate.device_name, str(rate.match), *valid)


def _shown(rate: Rate) -> Mapping[str, object]:
    return {
        "device": rate.device_name,
        "per_hour": rate.per_hour,
        "currency": rate.currency,
        "covers": rate.covers,
        "basis": rate.basis,
        "match": ",".join(f"{name}={value}" for name, value in rate.match),
        "from": _time(rate.valid_from_ns),
        "to": _time(rate.valid_to_ns),
        "source": rate.source,
        "as_of": rate.as_of.isoformat(),
        "line": rate.line,
    }


def _time(unix_ns: int | None) -> str | None:
    if unix_ns is None:
        return None
    return datetime.fromtimestamp(unix_ns // NS_PER_SECOND, timezone.utc).isoformat()


def _device(name: str) -> str:
    return nvml_name(name) or name


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as failure:
        raise ConfigError(f"--as-of {text!r} is not a date such as 2026-05-01") from failure


def _today() -> date:
    seconds = SystemClock().realtime_ns() // NS_PER_SECOND
    return datetime.fromtimestamp(seconds, timezone.utc).date()


_ACTIONS: Final = {
    "import": _import,
    "list": _list,
    "quote": _quote,
    "diff": _diff,
    "check": _check,
    "owned": run_owned,
}
COMMAND = Command("Reads, writes and compares price tables.", _configure, _run)
