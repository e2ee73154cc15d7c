"""`apportion prices apply`: what is settled already, at the prices of the configured table."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final

from apportion.agent.cli.config_options import add_config_options, config_of
from apportion.agent.cli.instant import unix_ns_of
from apportion.agent.cli.listing import add_format, render
from apportion.agent.config_problems import load_prices
from apportion.core.clock import SystemClock
from apportion.core.errors import ConfigError
from apportion.core.units import NS_PER_HOUR, NS_PER_SECOND
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.ledger.lock import COMMAND, LedgerLock
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.report_text import decimal_amount
from apportion.cost.repricing.apply import apply_prices, planned

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from apportion.agent.config import AgentConfig
    from apportion.cost.rate import PriceTable
    from apportion.cost.repricing.proposal import PriceChange, Proposal, RuleChange

COLUMNS: Final = (
    *("device", "device_hours", "before", "after", "cost_before", "cost_after", "change"),
    *("currency", "basis", "source", "as_of"),
)
RULE_COLUMNS: Final = ("device", "category", "change", "currency", "source", "as_of")
EXACT: Final = 12
_RESTART: Final = (
    "an agent that runs goes on with the table that it was started with: restart it, so that time "
    "from now on has these prices, too"
)


def configure_apply(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    when = "a date or time in UTC, or how long ago (24h, 7d); whole hours are taken"
    parser.add_argument("--since", required=True, metavar="WHEN", help=f"from when: {when}")
    parser.add_argument("--until", metavar="WHEN", help="to when, in the same way (default: now)")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be posted")
    add_format(parser)
    add_config_options(parser)


def run_apply(options: argparse.Namespace) -> int:
    """Apply, or only plan, and say what changed; the exit status."""
    config = config_of(options).config
    prices = load_prices(config)
    if not prices.rates:
        raise ConfigError(
            "no price holds on this node: name the table with --prices, and what the node is with "
            "--placement"
        )
    clock = SystemClock()
    now_ns = clock.realtime_ns()
    since_ns = unix_ns_of(options.since, now_ns)
    until_ns = None if options.until is None else unix_ns_of(options.until, now_ns)
    if until_ns is not None and until_ns <= since_ns:
        raise ConfigError(f"--until {options.until} is not later than --since {options.since}")
    if options.dry_run:
        with LedgerReader.of(config.ledger_location, clock=clock) as reader:
            proposal = planned(reader, config.node, prices, since_ns, until_ns)
    else:
        proposal = _post(config, clock, prices, since_ns, until_ns)
    _say(proposal, form=options.format, dry_run=options.dry_run)
    return 0


def _post(
    config: AgentConfig,
    clock: SystemClock,
    prices: PriceTable,
    since_ns: int,
    until_ns: int | None,
) -> Proposal:
    with Ledger.beside(config.ledger_location, node=config.node, clock=clock) as ledger:
        lock = LedgerLock.take(config.ledger_location, COMMAND)
        try:
            return apply_prices(ledger, config.node, prices, since_ns, until_ns)
        finally:
            lock.release()


def _say(proposal: Proposal, *, form: str, dry_run: bool) -> None:
    changes = [_shown(change) for change in proposal.changes]
    if form == "json":
        document = {
            "posted": bool(proposal.batch.inserted) and not dry_run,
            "lines": proposal.lines,
            "hours": proposal.hours,
            "changes": changes,
            "rules": [_by_rule(rule) for rule in proposal.rules],
            "kept": [one._asdict() for one in proposal.kept],
            "skipped": [one._asdict() for one in proposal.skipped],
        }
        sys.stdout.write(f"{json.dumps(document, indent=2)}\n")
        return
    if changes or form == "csv":
        sys.stdout.write(render(changes, COLUMNS, form))
    if form == "table":
        if proposal.rules:
            sys.stdout.write(render(list(map(_by_rule, proposal.rules)), RULE_COLUMNS, form))
        verb = "would post" if dry_run else "posted"
        lines = f"{proposal.lines} lines in {proposal.hours} hours"
        sys.stdout.write(f"{verb} {lines}\n" if proposal.batch.inserted else "nothing to post\n")
    for line in _remarks(proposal):
        sys.stderr.write(f"{line}\n")
    if not dry_run:
        sys.stderr.write(f"{_RESTART}\n")


def _shown(change: PriceChange) -> Mapping[str, object]:
    before, after = change.before, change.after
    difference = change.after_units - (change.before_units or 0)
    return {
        "device": change.device,
        "device_hours": f"{change.device_ns / NS_PER_HOUR:.3f}",
        "before": None if before is None else before.per_hour,
        "after": after.per_hour,
        "cost_before": _amount(change.before_units),
        "cost_after": _amount(change.after_units),
        "change": _amount(difference),
        "currency": after.currency,
        "basis": after.basis,
        "source": after.source,
        "as_of": after.as_of,
    }


def _by_rule(rule: RuleChange) -> Mapping[str, object]:
    return {
        "device": rule.device,
        "category": rule.category.label,
        "change": _amount(rule.units),
        "currency": rule.rate.currency,
        "source": rule.rate.source,
        "as_of": rule.rate.as_of,
    }


def _amount(units: int | None) -> str | None:
    return None if units is None else decimal_amount(units, EXACT)


def _remarks(proposal: Proposal) -> Iterator[str]:
    """What stays as it is, and why."""
    for reason in sorted({one.reason for one in proposal.skipped}):
        hours = {one.hour_unix_ns for one in proposal.skipped if one.reason == reason}
        first = f"the hour from {_hour(min(hours))}"
        many = f"{len(hours)} hours from {_hour(min(hours))} to {_hour(max(hours) + NS_PER_HOUR)}"
        yield f"left out {first if len(hours) == 1 else many}: {reason}"
    for one in proposal.kept:
        time = f"{one.device_ns / NS_PER_HOUR:.3f} device-hours"
        yield f"{time} of {one.device} ({one.name}) stay as they are: {one.reason}"


def _hour(unix_ns: int) -> str:
    moment = datetime.fromtimestamp(unix_ns // NS_PER_SECOND, timezone.utc)
    return moment.strftime("%Y-%m-%d %H:%MZ")
