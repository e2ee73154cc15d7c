"""The queries of a dashboard's JSON, as Grafana would send them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

VARIABLES = {
    "$__rate_interval": "10s",
    "$__range": "1m",
    "$instance": ".*",
    "$workload": ".*",
    "$run": ".+",
}


def queries(dashboard: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each panel's and annotation's expressions, by the title of the dashboard and its own."""
    title = dashboard["title"]
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield f"{title} / {panel['title']}", target["expr"]
    for annotation in dashboard["annotations"]["list"]:
        yield f"{title} / {annotation['name']}", annotation["expr"]


def filled(expression: str, *, currency: str = "usd") -> str:
    """An expression with all values chosen and a short interval.

    Raises:
        ValueError: a variable is left that no dashboard has.
    """
    for name, value in {"${currency}": currency, **VARIABLES}.items():
        expression = expression.replace(name, value)
    if "$" in expression:
        raise ValueError(f"a variable that nobody sets: {expression}")
    return expression
