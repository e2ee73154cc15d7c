"""The source as a provisioning file of Grafana Alerting.

The expressions are Prometheus', comparisons included, so a query's every series is one alert.
Grafana asks for a condition: that there is a number. The recording rules stay Prometheus'.
"""

from __future__ import annotations

import re
from typing import Any, Final

from alerts.source import Alert, Source

_LOOK_BACK_S: Final = 600
_LONGEST_UID: Final = 40
_VALUE: Final = re.compile(r"\$value\b")


def provisioning(source: Source) -> dict[str, Any]:
    """The file, for Grafana's `provisioning/alerting`."""
    return {
        "apiVersion": 1,
        "groups": [
            {
                "orgId": 1,
                "name": f"apportion-{group.name}",
                "folder": "apportion",
                "interval": "1m",
                "rules": [_rule(alert, source) for alert in group.alerts],
            }
            for group in source.groups
            if group.alerts
        ],
    }


def _rule(alert: Alert, source: Source) -> dict[str, Any]:
    return {
        "uid": uid(alert.alert),
        "title": alert.alert,
        "condition": "C",
        "data": [
            {
                "refId": "A",
                "relativeTimeRange": {"from": _LOOK_BACK_S, "to": 0},
                "datasourceUid": source["datasource"],
                "model": {"refId": "A", "expr": alert.expr, "instant": True, "range": False},
            },
            {
                "refId": "C",
                "relativeTimeRange": {"from": 0, "to": 0},
                "datasourceUid": "__expr__",
                "model": {
                    "refId": "C",
                    "type": "math",
                    "expression": "is_number($A) || is_inf($A)",
                },
            },
        ],
        # No series is what silence looks like.
        "noDataState": "OK",
        "execErrState": "Error",
        "for": alert.wait,
        "labels": {"severity": alert.severity},
        "annotations": {
            name: _VALUE.sub("$values.A.Value", text)
            for name, text in alert.annotations(source["runbook"]).items()
        },
    }


def uid(name: str) -> str:
    """A name as Grafana wants its ids: lower case with dashes, at most 40 characters."""
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()
    if len(text) > _LONGEST_UID:
        raise ValueError(f"{name}: Grafana takes at most {_LONGEST_UID} characters: {text}")
    return text
