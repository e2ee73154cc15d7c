"""What the running agent says on `/metrics`, read as a dashboard would."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import Final

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

TIMEOUT_SECONDS: Final = 5.0
COST: Final = "apportion_cost_usd_total"
SETTLED: Final = "apportion_settled_until_timestamp_seconds"
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Without a proxy: the agent is on the loopback interface."""


class Telemetry:
    """The HTTP endpoints of one agent. What cannot be read now is None, never an error."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ready(self) -> bool:
        """Whether the agent's ledger is open and its first settlement is there."""
        return self._get("/readyz") is not None

    def cost(self) -> dict[str, float] | None:
        """Metered cost so far in USD by workload, `` for what is held by none; None: no answer."""
        samples = self._samples(COST)
        if samples is None:
            return None
        costs: dict[str, float] = {}
        for sample in samples:
            workload = sample.labels.get("workload", "")
            costs[workload] = costs.get(workload, 0.0) + sample.value
        return costs

    def settled_until(self) -> float | None:
        """Unix time in seconds up to which every device is charged; None while one is not."""
        return min((sample.value for sample in self._samples(SETTLED) or ()), default=None)

    def _samples(self, name: str) -> list[Sample] | None:
        page = self._get("/metrics")
        if page is None:
            return None
        families = text_string_to_metric_families(page)
        return [sample for family in families for sample in family.samples if sample.name == name]

    def _get(self, path: str) -> str | None:
        try:
            with _direct.open(f"{self.url}{path}", timeout=TIMEOUT_SECONDS) as response:
                body: bytes = response.read()
        except (urllib.error.URLError, OSError):
            return None
        return body.decode()
