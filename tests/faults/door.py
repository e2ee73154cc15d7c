"""An agent's HTTP doors, as a scraper and a probe see them."""

from __future__ import annotations

import re
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families


class Door:
    """/metrics and /readyz where a log says they are; a connection for each look, as of probes."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def text(self) -> str:
        """/metrics in the classic format, empty where nobody answers."""
        return self._get("/metrics")[1]

    def value(self, name: str, **labels: str) -> float | None:
        """The sum of all samples of a name with these labels; None where there is none."""
        values = [
            sample.value
            for family in text_string_to_metric_families(self.text())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(values) if values else None

    def ready(self) -> bool:
        """Whether /readyz answers 200."""
        return self._get("/readyz")[0] == 200

    def says(self) -> str:
        """The text of /readyz, empty where nobody answers."""
        return self._get("/readyz")[1]

    @property
    def address(self) -> str:
        """Host and port, empty before it listens."""
        found = re.search(r"listening on http://([\d.]+:\d+)", self._log.read_text())
        return "" if found is None else found[1]

    def _get(self, path: str) -> tuple[int, str]:
        address = self.address
        if not address:
            return 0, ""
        with closing(HTTPConnection(address, timeout=20)) as connection:
            try:
                connection.request("GET", path)
                response = connection.getresponse()
                return response.status, response.read().decode()
            except (OSError, HTTPException):
                return 0, ""
