"""Samples on their way to prometheus-client: only what the catalogue declares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    Exemplar,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from apportion.agent.metrics.catalogue import FAMILIES, by_name
from apportion.core.family import Family

_NONE: Final[Mapping[str, str]] = {}
_OF_KIND: Final = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


class UndeclaredSampleError(ValueError):
    """A sample that the catalogue does not declare. Raised in tests, counted in production."""


class Emission:
    """Collects samples by declared family and refuses the rest."""

    def __init__(self, currency: str | None) -> None:
        self._currency = currency
        self._declared = {
            name: (family, labels)
            for family in by_name().values()
            for name, labels in family.sample_labels.items()
        }
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
    ) -> None:
        """Add a sample of `apportion_<name>`, unless `value` is None.

        `name` is a family's; for a histogram with `_bucket`, `_sum` or `_count` after it.
        """
        if value is None:
            return
        declared_name = f"apportion_{name}"
        declared = self._declared.get(declared_name)
        if declared is None:
            self.undeclared.append(f"family {declared_name} is not in the catalogue")
            return
        family, known = declared
        full_name = family.name_in(self._currency)
        if full_name is None:
            return
        if any(label not in known for label in labels):
            extra = ", ".join(sorted(set(labels) - set(known)))
            self.undeclared.append(f"{full_name} has undeclared labels: {extra}")
            return
        given = {label: text for label, text in labels.items() if text}
        if simulated and family.simulated:
            given["simulated"] = "true"
        part = declared_name.removeprefix(family.name)
        self._metric(family, full_name).add_sample(
            f"{full_name}{part}", given, value, exemplar=exemplar
        )

    def metrics(self) -> Iterator[Metric]:
        """The families that have samples, in the catalogue's order."""
        for family in FAMILIES:
            if family.name in self._metrics:
                yield self._metrics[family.name]

    def _metric(self, family: Family, full_name: str) -> Metric:
        metric = self._metrics.get(family.name)
        if metric is None:
            of_kind = _OF_KIND[family.kind]
            metric = of_kind(full_name, family.help)
            self._metrics[family.name] = metric
        return metric
