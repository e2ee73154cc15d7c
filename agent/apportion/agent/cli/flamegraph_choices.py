"""What `apportion flamegraph` is asked for: numbers of which unit, which weight and which steps.

Options alone: none of them needs numpy or a reader of traces.
"""

from __future__ import annotations

import argparse
from typing import Final

from apportion.agent.cli.jobs_option import add_jobs
from apportion.core.errors import ConfigError
from apportion.profiles.step_range import StepRange
from apportion.profiles.weight import COST, COUNT, ENERGY, MONEY, TIME, Weight, cost

FILES: Final = (
    "folded text, py-spy's raw, speedscope's JSON, or a trace of torch.profiler or nsys, one a rank"
)
_NAMES: Final = {MONEY: COST, "joules": ENERGY.name}
"""Weights by what people call them, too."""
_WEIGHTS: Final = {one.unit: one for one in (COUNT, TIME, ENERGY)}


def add_choices(parser: argparse.ArgumentParser) -> None:
    """What numbers of folded text are of, which weight is asked for, and which steps."""
    parser.add_argument(
        "--unit",
        choices=(*_WEIGHTS, MONEY),
        default=COUNT.unit,
        help="what folded text counts: samples (default), nanoseconds, millijoules, or money in "
        "10^-12 of --currency; other files say it themselves",
    )
    parser.add_argument("--currency", metavar="CODE", help="with --unit money: such as USD")
    parser.add_argument(
        "--weight",
        type=lambda name: _NAMES.get(name, name),
        metavar="NAME",
        help="of several weights, this one: money, time or energy (default: the first)",
    )
    parser.add_argument(
        "--steps", type=_steps, metavar="A-B", help="only these steps of traces, both included"
    )
    parser.add_argument(
        "--costliest-steps",
        type=_percent,
        metavar="PERCENT",
        help="only so many per cent of the steps, those that weigh most, with --ledger those that "
        "cost most; at least one",
    )
    add_jobs(parser)


def unit_of(options: argparse.Namespace) -> Weight:
    """What numbers without a unit are of.

    Raises:
        ConfigError: money of no currency, or a currency of something else.
    """
    if options.unit != MONEY:
        if options.currency is not None:
            raise ConfigError("--currency is of money: say --unit money, too")
        return _WEIGHTS[options.unit]
    currency = str(options.currency or "")
    if not (currency.isascii() and currency.isalpha() and len(currency) == len("USD")):
        raise ConfigError(f"--unit money needs --currency, such as USD, and not {currency!r}")
    return cost(currency.upper())


def _steps(text: str) -> StepRange:
    first, dash, last = text.partition("-")
    try:
        return StepRange(int(first), int(last) if dash else int(first))
    except ValueError as failure:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no range of steps, such as 100-120"
        ) from failure


def _percent(text: str) -> float:
    try:
        percent = float(text)
    except ValueError:
        percent = 0.0
    if not 0 < percent <= 100:
        raise argparse.ArgumentTypeError(f"{text} is no number of per cent above 0 up to 100")
    return percent
