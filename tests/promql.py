"""What a PromQL expression names, and whether the catalogue has it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import promql_parser
from promql_parser import (
    AggModifierType,
    AggregateExpr,
    BinaryExpr,
    Call,
    Expr,
    MatrixSelector,
    ParenExpr,
    SubqueryExpr,
    UnaryExpr,
    VectorSelector,
)

from apportion.agent.metrics.catalogue import FAMILIES

TARGET = frozenset({"job", "instance"})
"""The labels that Prometheus adds to what it scrapes."""
PICKING = ("topk", "bottomk")
"""Aggregations that choose series and leave their labels."""


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


def labels_of(expression: str, known: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """The labels that its result can have."""
    return _labels(promql_parser.parse(expression), known)


def _labels(node: Expr, known: Mapping[str, frozenset[str]]) -> frozenset[str]:
    match node:
        case VectorSelector():
            return known[node.name or ""]
        case MatrixSelector():
            return known[node.vector_selector.name or ""]
        case ParenExpr() | UnaryExpr() | SubqueryExpr():
            return _labels(node.expr, known)
        case AggregateExpr():
            inner = _labels(node.expr, known)
            modifier = node.modifier
            if modifier is None or str(node.op) in PICKING:
                return inner if str(node.op) in PICKING else frozenset()
            named = frozenset(modifier.labels)
            return named if modifier.type == AggModifierType.By else inner - named
        case BinaryExpr():
            left, right = _labels(node.lhs, known), _labels(node.rhs, known)
            if str(node.op) == "or":
                return left | right
            return left or right
        case Call():
            inner = frozenset[str]().union(*(_labels(each, known) for each in node.args))
            if node.func.name == "label_replace":
                return inner | {node.args[1].val}
            return inner - {"le"} if node.func.name == "histogram_quantile" else inner
        case _:
            return frozenset()


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
