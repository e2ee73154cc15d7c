"""`apportion flamegraph build --ledger`: the money, and what is said beside it.

It needs the extra `agent`, and is imported where a ledger is asked only.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from apportion.agent.cli.flamegraph_filter import PHASES, WHOSE
from apportion.agent.cli.flamegraph_inputs import stacks_of
from apportion.agent.cli.instant import unix_ns_of
from apportion.agent.cli.ledger_option import ledgers_of
from apportion.agent.cli.trace_inputs import say
from apportion.agent.priced_stacks import priced, priced_whole
from apportion.core.clock import Clock, SystemClock
from apportion.core.errors import ConfigError
from apportion.cost.cost_by_category import NOTHING_SPENT, CostByCategory, CostFilter
from apportion.cost.ledger.several import open_ledgers
from apportion.cost.quantity import Quantity
from apportion.profiles.rank_stacks import STEP
from apportion.profiles.stack_filter import StepRange
from apportion.profiles.stacks import Stacks


def priced_by_ledger(options: argparse.Namespace, stacks: Stacks) -> Stacks:
    """`stacks` in money, energy and device time of what was chosen.

    Raises:
        ConfigError, LedgerError: the ledger cannot be read, or has nothing of it.
    """
    clock = SystemClock()
    chosen = replace(_chosen(options, clock), steps=_steps(options, stacks))
    with open_ledgers(ledgers_of(options), clock) as ledger:
        spent = CostByCategory.of(ledger, chosen)
    found = priced(stacks, spent)
    say(_beside(spent))
    return found


def whole_ledger(options: argparse.Namespace) -> Stacks:
    """Every workload of the ledger, with the profiles of those that have some.

    Raises:
        ConfigError, LedgerError: as `priced_by_ledger`; or single spans were asked for.
    """
    if options.steps is not None or options.costliest_steps is not None or options.request:
        raise ConfigError("--steps, --costliest-steps and --request choose in a FILE: name it")
    paths: dict[str, list[Path]] = {}
    for text in options.profile:
        workload, equals, path = text.partition("=")
        if not (workload and equals and path):
            raise ConfigError(f"--profile {text!r} is not WORKLOAD=FILE")
        paths.setdefault(workload, []).append(Path(path))
    clock = SystemClock()
    with open_ledgers(ledgers_of(options), clock) as ledger:
        spent = CostByCategory.by_workload(ledger, _chosen(options, clock))
    found = priced_whole({name: stacks_of(options, own) for name, own in paths.items()}, spent)
    say(_beside(sum(spent.values(), NOTHING_SPENT)))
    return found


def _chosen(options: argparse.Namespace, clock: Clock) -> CostFilter:
    now_ns = clock.realtime_ns()
    since_ns, until_ns = (
        None if text is None else unix_ns_of(text, now_ns)
        for text in (options.since, options.until)
    )
    return CostFilter(
        **{name: getattr(options, name) for name in WHOSE},
        phase=None if options.phase is None else PHASES[options.phase],
        start_unix_ns=since_ns,
        end_unix_ns=until_ns,
    )


def _steps(options: argparse.Namespace, stacks: Stacks) -> list[tuple[int, int]] | None:
    """The steps of which the money is asked for: those of the stacks, where some were chosen."""
    asked: StepRange | None = options.steps
    if STEP in stacks.labels and (asked is not None or options.costliest_steps is not None):
        codes: list[int] = np.unique(stacks.labels[STEP]).tolist()
        return _ranges(int(stacks.names[code]) for code in codes if code >= 0)
    return None if asked is None else [(asked.first, asked.last)]


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Numbers as ranges, both ends included: few conditions for many steps."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def _beside(spent: CostByCategory) -> Iterator[str]:
    total: Quantity = spent.total
    if spent.simulated:
        yield "SIMULATED: devices of this ledger are simulated, no real money was spent"
    if spent.estimated:
        yield "estimated: the amounts rest on assumed prices; see apportion prices quote"
    if total.unpriced_ns:
        yield (
            f"{total.unpriced_ns / 1e9:,.3f} device-seconds have no price and no width in money; "
            "add one and run apportion prices apply"
        )
    if total.unmetered_ns and total.energy_mj is not None:
        yield f"{total.unmetered_ns / 1e9:,.3f} device-seconds have no energy source"
