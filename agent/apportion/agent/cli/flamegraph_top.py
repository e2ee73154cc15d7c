"""`apportion flamegraph top`: the frames that weigh most."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from apportion.agent.cli.flamegraph_choices import FILES, add_choices
from apportion.agent.cli.listing import add_format, render
from apportion.profiles.weight import Weight

COLUMNS: Final = ("frame", "own", "own_pct", "total", "total_pct")
SHOWN_NAME: Final = 80


def configure_top(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help=FILES)
    add_choices(parser)
    parser.add_argument(
        "--by", choices=("own", "total"), default="own", help="what puts them in order"
    )
    parser.add_argument("-n", "--limit", type=_count, default=20, metavar="N", help="so many")
    add_format(parser)
    parser.epilog = (
        "own: at the end of stacks; total: anywhere in them, once in each. JSON and CSV have the "
        "whole numbers of the unit: samples, ns, mJ, or 10^-12 of the currency."
    )


def run_top(options: argparse.Namespace) -> int:
    """Print it; the exit status."""
    # `flamegraph build` of folded text does without numpy, and comes this way
    from apportion.agent.cli.flamegraph_inputs import stacks_of, status_of  # noqa: PLC0415
    from apportion.profiles.frame_totals import FrameTotals  # noqa: PLC0415

    found = stacks_of(options, options.files)
    stacks = found.stacks
    row = stacks.weight(options.weight)
    totals = FrameTotals.of(stacks, row)
    own, total = totals.own.tolist(), totals.total.tolist()
    whole = stacks.total(row)
    first, second = (own, total) if options.by == "own" else (total, own)
    order = sorted(
        (code for code in range(len(stacks.names)) if total[code]),
        key=lambda code: (-first[code], -second[code], stacks.names[code]),
    )
    rows = [
        _row(stacks.names[code], own[code], total[code], whole) for code in order[: options.limit]
    ]
    if options.format == "table":
        rows = [_shown(one, stacks.weights[row]) for one in rows]
    sys.stdout.write(render(rows, COLUMNS, options.format))
    return status_of(found)


def _row(name: str, own: int, total: int, whole: int) -> dict[str, object]:
    return {
        "frame": name,
        "own": own,
        "own_pct": round(100 * own / whole, 2),
        "total": total,
        "total_pct": round(100 * total / whole, 2),
    }


def _shown(row: dict[str, object], weight: Weight) -> dict[str, object]:
    name = str(row["frame"])
    short = name if len(name) <= SHOWN_NAME else f"{name[: SHOWN_NAME - 1]}…"
    own, total = (weight.text(int(str(row[key]))) for key in ("own", "total"))
    return {**row, "frame": short, "own": own, "total": total}


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rows from 1 up")
    return int(text)
