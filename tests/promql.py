"""What a PromQL expression names, and whether the catalogue has it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import promql_parser
from promql_parser import AggregateExpr, BinaryExpr, Expr, MatrixSelector, VectorSelector

from apportion.agent.metrics.catalogue import FAMILIES

TARGET = frozenset({"job", "instance"})
"""The labels that Prometheus adds to what it scrapes."""


def declared(currency: str) -> dict[str, frozenset[str]]:
    """The labels of each series that the agent can show, by name."""
    return {
        name.format(currency=currency): TARGET.union(
            labels, ["simulated"] if family.simulated else []
        )
        for family in FAMILIES
        for name, labels in family.sample_labels.items()
    } | {"up": TARGET}


def selectors(expression: str) -> Iterator[VectorSelector]:
    """Its selectors of series."""
    found: list[Expr] = []
    promql_parser.walk(promql_parser.parse(expression), found.append)
    for node in found:
        if isinstance(node, MatrixSelector):
            yield node.vector_selector
        elif isinstance(node, VectorSelector):
            yield node


def named_labels(expression: str) -> set[str]:
    """The labels that it groups, joins or keeps by."""
    found: list[Expr] = []
    promql_parser.walk(promql_parser.parse(expression), found.append)
    labels: set[str] = set()
    for node in found:
        if isinstance(node, AggregateExpr) and node.modifier is not None:
            labels.update(node.modifier.labels)
        if isinstance(node, BinaryExpr) and node.modifier is not None:
            matching = node.modifier.matching
            labels.update(matching.labels if matching is not None else ())
            labels.update(node.modifier.group_labels or ())
    return labels


def undeclared(
    expression: str, known: Mapping[str, frozenset[str]], made: Iterable[str] = ()
) -> list[str]:
    """What it names that no family has; `made` are labels that it makes itself."""
    problems: list[str] = []
    labels: set[str] = set(made)
    for selector in selectors(expression):
        name = selector.name
        if name is None or name not in known:
            problems.append(f"no such series: {name}")
            continue
        labels |= known[name]
        problems += [
            f"{name} has no label {matcher.name}"
            for matcher in selector.matchers.matchers
            if matcher.name not in known[name]
        ]
    problems += [f"no label {label} here" for label in sorted(named_labels(expression) - labels)]
    return problems
