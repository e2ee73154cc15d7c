"""`apportion prices quote|list|diff`: what price tables say."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from apportion.agent.cli.instant import unix_ns_of
from apportion.agent.cli.listing import add_format, render
from apportion.agent.cli.price_table_option import add_table, named_table, table_of
from apportion.core.clock import SystemClock
from apportion.core.errors import ConfigError
from apportion.core.units import NS_PER_SECOND
from apportion.cost.price_row import ESTIMATE, LABEL, MATCHED, OLD_PRICE_DAYS
from apportion.cost.prices.billing import AS_METERED
from apportion.cost.prices.device_names import nvml_name, similar_names
from apportion.cost.prices.differences import differences
from apportion.cost.prices.instants import instant_text
from apportion.cost.prices.mig import MIG_POLICIES, MigDevice

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from apportion.cost.price_row import Rate
    from apportion.cost.rate import PriceTable

_FACTS: Final = ("device", "per_hour", "currency", "covers", "basis", "match", "from", "to")
_PROVENANCE: Final = ("source", "as_of", "line")
_RULES: Final = ("granularity", "minimum", "committed_devices", "mig")
LIST_COLUMNS: Final[tuple[str, ...]] = (*_FACTS, *_PROVENANCE, *_RULES)
QUOTE_COLUMNS: Final = (*LIST_COLUMNS, "age_days", "table")
DIFF_COLUMNS: Final = (
    *("change", "device", "match", "from", "to", "before", "after", "currency", "differs"),
)


def configure_list(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_table(parser)
    parser.add_argument("--device", metavar="NAME", help="only the rows of this device")
    add_format(parser)


def run_list(options: argparse.Namespace) -> int:
    """Print the rows; for people only the columns that any of them has."""
    table = table_of(options).table
    rates = table.rates
    if options.device is not None:
        rates = table.rates_of(nvml_name(options.device) or options.device)
    rows = [_shown(rate) for rate in rates]
    columns = LIST_COLUMNS
    if options.format == "table":
        columns = tuple(name for name in LIST_COLUMNS if name in _FACTS[:5] or _is_told(rows, name))
    sys.stdout.write(render(rows, columns, options.format))
    return 0


def configure_quote(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_table(parser)
    parser.add_argument("device", metavar="DEVICE", help="NVML's or a cloud's name of it")
    parser.add_argument("--at", metavar="WHEN", help="a date or time in UTC (default: now)")
    node = parser.add_argument_group(
        "the node",
        "for tables that ask (default: the placement in the configuration, without TABLE)",
    )
    for name in MATCHED:
        node.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE")
    node.add_argument("--label", action="append", default=[], metavar="NAME=VALUE")
    add_format(parser)


def run_quote(options: argparse.Namespace) -> int:
    """Print the one row that holds, or why there is none."""
    if options.table is None and Path(options.device).is_file():
        raise ConfigError(f"{options.device} is a file; name the device after the table")
    table, name, placement = table_of(options)
    now_ns = SystemClock().realtime_ns()
    at_ns = now_ns if options.at is None else unix_ns_of(options.at, now_ns)
    device = nvml_name(options.device) or options.device
    quote = table.quote(device, {**placement, **_placement(options)}, at_ns)
    if quote.rate is None:
        close = similar_names(options.device) if nvml_name(options.device) is None else []
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        sys.stderr.write(f"apportion prices: {device}: no price in {name}: {quote.reason}{hint}\n")
        return 1
    rate = quote.rate
    age_days = rate.age_days(now_ns)
    row = {**_shown(rate), "age_days": age_days, "table": str(table.path)}
    if options.format == "table":
        sys.stdout.write(_told(rate, row, age_days, _mig_share(table, rate)))
    else:
        sys.stdout.write(render([row], QUOTE_COLUMNS, options.format))
    return 0


def configure_diff(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("before", metavar="BEFORE")
    parser.add_argument("after", metavar="AFTER")
    add_format(parser)
    parser.epilog = "Exit status 1: they differ."


def run_diff(options: argparse.Namespace) -> int:
    """Print the rows that are in one table only, or differ."""
    found = differences(named_table(options.before), named_table(options.after))
    rows = [
        {
            **({} if pair.rate is None else _shown(pair.rate)),
            "change": pair.change,
            "before": None if pair.before is None else pair.before.per_hour,
            "after": None if pair.after is None else pair.after.per_hour,
            "differs": ",".join(pair.facts),
        }
        for pair in found
    ]
    if rows or options.format != "table":
        sys.stdout.write(render(rows, DIFF_COLUMNS, options.format))
    else:
        sys.stdout.write("no difference in any price\n")
    return 1 if rows else 0


def _placement(options: argparse.Namespace) -> dict[str, str]:
    placement: dict[str, str] = {
        name: getattr(options, name) for name in MATCHED if getattr(options, name)
    }
    for pair in options.label:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--label {pair!r} is not NAME=VALUE")
        placement[f"{LABEL}{name}"] = value
    return placement


def _is_told(rows: Sequence[Mapping[str, object]], name: str) -> bool:
    """Whether a row says something by that key that is not said by leaving it out."""
    return any(row[name] not in {None, "", *MIG_POLICIES[:1]} for row in rows)


def _mig_share(table: PriceTable, rate: Rate) -> str:
    """What part of a GPU's rate it is; empty for a row of its own."""
    instance = MigDevice.named(rate.device_name)
    if instance is None or any(own.device_name == rate.device_name for own in table.rates):
        return ""
    return f"{instance.share(rate.mig_policy)} of {instance.gpu}, by {rate.mig_policy} slices"


def _age(days: int) -> str:
    if days < 0:
        return "in the future: correct it"
    return f"{days} days ago{': look it up again' if days > OLD_PRICE_DAYS else ''}"


def _told(rate: Rate, row: Mapping[str, object], age_days: int, mig_share: str) -> str:
    """One row for people, a fact a line."""
    basis = rate.basis
    if basis == ESTIMATE:
        basis += ": an estimate, no price of yours; write what you pay into a table"
    facts: dict[str, object] = {
        "device": rate.device_name,
        "price": f"{rate.per_hour} {rate.currency} per device-hour, for {rate.covers}",
        "share": mig_share,
        "basis": basis,
        "source": rate.source,
        "as of": f"{rate.as_of}, {_age(age_days)}",
        "holds": " ".join(f"{end} {row[end]}" for end in ("from", "to") if row[end]),
        "on nodes": row["match"],
        "billed": _billed(rate),
        "committed": rate.committed_devices and f"{rate.committed_devices} devices, used or not",
        "row": f"{row['table']}:{rate.line}",
    }
    return "".join(f"{name:<10} {text}\n" for name, text in facts.items() if text)


def _billed(rate: Rate) -> str:
    rule, parts = rate.billing, list[str]()
    if rule.granularity_ns != AS_METERED.granularity_ns:
        parts.append(f"in whole {rule.granularity_ns // NS_PER_SECOND} s")
    if rule.minimum_ns:
        parts.append(f"at least {rule.minimum_ns // NS_PER_SECOND} s")
    return ", ".join(parts)


def _shown(rate: Rate) -> Mapping[str, object]:
    rule = rate.billing
    is_plain = rule.granularity_ns == AS_METERED.granularity_ns
    return {
        "device": rate.device_name,
        "per_hour": rate.per_hour,
        "currency": rate.currency,
        "covers": rate.covers,
        "basis": rate.basis,
        "match": ",".join(f"{name}={value}" for name, value in rate.match),
        "from": None if rate.valid_from_ns is None else instant_text(rate.valid_from_ns),
        "to": None if rate.valid_to_ns is None else instant_text(rate.valid_to_ns),
        "source": rate.source,
        "as_of": rate.as_of.isoformat(),
        "line": rate.line,
        "granularity": None if is_plain else rule.granularity_ns // NS_PER_SECOND,
        "minimum": rule.minimum_ns // NS_PER_SECOND or None,
        "committed_devices": rate.committed_devices,
        "mig": rate.mig_policy,
    }
