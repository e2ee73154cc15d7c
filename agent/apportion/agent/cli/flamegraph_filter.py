"""Whose money a flame graph shows: the options of `apportion flamegraph build`.

They import nothing of the extra `agent`: without a ledger the command needs `profiles` alone.
"""

from __future__ import annotations

import argparse
from typing import Final

from apportion.agent.cli.ledger_option import add_ledgers
from apportion.core.category import Phase
from apportion.core.errors import ConfigError

PHASES: Final = {phase.label: phase for phase in Phase if phase}
WHOSE: Final = ("workload", "run", "tenant", "model", "request")


def add_ledger_filter(parser: argparse.ArgumentParser) -> None:
    """The ledger, and what of it."""
    group = parser.add_argument_group(
        "money and energy from the ledger",
        "With --ledger, --shared or --config the width is money: what the ledger has, to the unit; "
        "what is direct is divided among the stacks by their time.",
    )
    add_ledgers(group)
    group.add_argument(
        "--profile",
        action="append",
        default=[],
        metavar="WORKLOAD=FILE",
        help="instead of FILE: a profile of this workload (repeatable). Every workload of the "
        "ledger is a frame then, with its own stacks below, and the root is the whole ledger",
    )
    for name in WHOSE:
        group.add_argument(f"--{name}", metavar="NAME", help=f"only this {name}'s cost")
    group.add_argument("--phase", choices=tuple(PHASES), help="only this phase of spans")
    when = "a date or time in UTC, or how long ago (24h, 7d); whole hours are taken"
    group.add_argument("--since", metavar="WHEN", help=f"from when: {when}")
    group.add_argument("--until", metavar="WHEN", help="to when, in the same way")


def is_priced(options: argparse.Namespace) -> bool:
    """Whether a ledger is asked.

    Raises:
        ConfigError: its filters are given without it.
    """
    is_asked = bool(options.ledger or options.shared or options.config)
    filters = (*WHOSE, "phase", "since", "until")
    given = [name for name in filters if getattr(options, name) is not None]
    given += ["profile"] if options.profile else []
    if given and not is_asked:
        raise ConfigError(f"--{given[0]} chooses in a ledger: give --ledger, too")
    return is_asked
