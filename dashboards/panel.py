"""What a dashboard consists of, and short words for the queries that its panels repeat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["graph", "stack", "number", "table"]

COST: Final = "cost_${currency}_total"
"""`$currency` is a variable of each dashboard."""
WORKLOAD: Final = 'workload=~"$workload"'
RUN: Final = 'run=~"$run"'


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression and how its series are called; with `exemplars`, spans beside them."""

    expr: str
    legend: str = ""
    exemplars: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture. `needs` says what it needs beside an agent with a GPU, a price and workloads.

    `steps` are thresholds: from which value on which colour. `link` leads from a series to a page.
    """

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = "graph"
    span: int = 8
    needs: str = ""
    steps: tuple[tuple[float, str], ...] = ()
    highest: float | None = None
    link: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard. With `by_workload` it has a variable for that, with `by_run` for runs."""

    name: str
    title: str
    description: str
    rows: tuple[Row, ...]
    by_workload: bool = False
    by_run: bool = False

    @property
    def panels(self) -> list[Panel]:
        """The panels of all rows."""
        return [panel for row in self.rows for panel in row.panels]


def series(name: str, *matchers: str) -> str:
    """The series of a family on the chosen instances; `name` without its prefix."""
    chosen = ",".join(('instance=~"$instance"', *matchers))
    return f"apportion_{name}{{{chosen}}}"


def rate(name: str, *matchers: str) -> str:
    """A counter's rate over the interval that suits the picture."""
    return f"rate({series(name, *matchers)}[$__rate_interval])"


def spent(name: str, *matchers: str) -> str:
    """What a counter rose by over the chosen time."""
    return f"increase({series(name, *matchers)}[$__range])"


def total(by: str, expression: str) -> str:
    """The sum of series by labels, or of all."""
    return f"sum by ({by}) ({expression})" if by else f"sum({expression})"


def share(by: str, part: str, whole: str) -> str:
    """A part of a whole, absent where there is no whole."""
    return f"{total(by, part)} / ({total(by, whole)} > 0)"


def quantile(of: float, histogram: str, by: str, *matchers: str) -> str:
    """A quantile of a histogram family."""
    buckets = total(f"le, {by}", rate(f"{histogram}_bucket", *matchers))
    return f"histogram_quantile({of}, {buckets})"


def latency(
    title: str, description: str, family: str, label: str, *matchers: str, needs: str = ""
) -> Panel:
    """Median and 95th percentile of one of the agent's own histograms, with spans as examples."""
    queries = tuple(
        Query(
            quantile(of, family, f"workload, {label}", WORKLOAD, *matchers),
            f"p{of * 100:.0f} {{{{workload}}}} {{{{{label}}}}}",
            exemplars=True,
        )
        for of in (0.5, 0.95)
    )
    return Panel(title, description, "s", queries, needs=needs)
