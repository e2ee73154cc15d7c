"""Samples on their way to prometheus-client: only what the catalogue declares."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final, NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    Exemplar,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from apportion.agent.metrics.catalogue import FAMILIES, by_name
from apportion.core.family import Family

PREFIX: Final = "apportion_"
_NONE: Final[Mapping[str, str]] = {}
_OF_KIND: Final = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


class UndeclaredSampleError(ValueError):
    """A sample that the catalogue does not declare. Raised in tests, counted in production."""


class _Declared(NamedTuple):
    """What samples of one name have. No `family_name`: it is money, and there is no currency."""

    family: Family
    labels: frozenset[str]
    family_name: str | None
    name: str


class Emission:
    """Collects samples by declared family and refuses the rest."""

    def __init__(self, currency: str | None) -> None:
        self._declared: dict[str, _Declared] = {}
        for family in by_name().values():
            whole = family.name_in(currency)
            for name, labels in family.sample_labels.items():
                full_name = f"{whole}{name.removeprefix(family.name)}"
                declared = _Declared(family, frozenset(labels), whole, full_name)
                self._declared[name.removeprefix(PREFIX)] = declared
        self._metrics: dict[str, Metric] = {}
        self.undeclared: list[str] = []

    def put(
        self,
        name: str,
        value: float | None,
        labels: Mapping[str, str] = _NONE,
        *,
        simulated: bool = False,
        exemplar: Exemplar | None = None,
        blank: Collection[str] = (),
    ) -> None:
        """Add a sample of `apportion_<name>`, unless `value` is None.

        `name` is a family's; for a histogram with `_bucket`, `_sum` or `_count` after it. Labels
        that are empty are left out, except those in `blank`.
        """
        if value is None:
            return
        declared = self._declared.get(name)
        if declared is None:
            self.undeclared.append(f"family {PREFIX}{name} is not in the catalogue")
            return
        family, known, family_name, full_name = declared
        if family_name is None:
            return
        if not known.issuperset(labels):
            extra = ", ".join(sorted(set(labels) - known))
            self.undeclared.append(f"{full_name} has undeclared labels: {extra}")
            return
        given = {label: text for label, text in labels.items() if text or label in blank}
        if simulated and family.simulated:
            given["simulated"] = "true"
        metric = self._metrics.get(family.name)
        if metric is None:
            metric = self._metrics[family.name] = _OF_KIND[family.kind](family_name, family.help)
        metric.add_sample(full_name, given, value, exemplar=exemplar)

    def metrics(self) -> Iterator[Metric]:
        """The families that have samples, in the catalogue's order."""
        for family in FAMILIES:
            if family.name in self._metrics:
                yield self._metrics[family.name]
