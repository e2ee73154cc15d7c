"""The source as Prometheus' files: rules that record, rules that alert, and promtool's tests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from alerts.source import NODE, Alert, Case, Record, Source

_SERIES: Final = re.compile(r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})?")


def rules(source: Source) -> dict[str, dict[str, Any]]:
    """The rules by file name: for each group one file that records and one that alerts."""
    made: dict[str, dict[str, Any]] = {}
    for group in source.groups:
        if group.records:
            recording = [_recording(record) for record in group.records]
            made[f"{group.name}.recording.yaml"] = _group(f"{group.name}-recording", recording)
        alerting = [_alerting(alert, source["runbook"]) for alert in group.alerts]
        made[f"{group.name}.alerts.yaml"] = _group(group.name, alerting)
    return made


def _group(name: str, rules: list[dict[str, Any]]) -> dict[str, Any]:
    return {"groups": [{"name": f"apportion-{name}", "rules": rules}]}


def _recording(rule: Record) -> dict[str, Any]:
    labels = {"labels": dict(rule.labels)} if rule.labels else {}
    return {"record": rule.record, "expr": rule.expr, **labels}


def _alerting(alert: Alert, runbook: str) -> dict[str, Any]:
    return {
        "alert": alert.alert,
        "expr": alert.expr,
        "for": alert.wait,
        "labels": {"severity": alert.severity},
        "annotations": alert.annotations(runbook),
    }


def tests(source: Source) -> dict[str, dict[str, Any]]:
    """promtool's tests by file name.

    A file has the cases of one group and one interval: promtool evaluates all rules of a file at
    each interval of each case, so that fewer of them are minutes less.
    """
    made: dict[str, dict[str, Any]] = {}
    known = rules(source)
    for group in source.groups:
        for interval in sorted({alert.case.interval for alert in group.alerts}):
            files = [name for name in known if name.startswith(f"{group.name}.")]
            order = [each["name"] for name in files for each in known[name]["groups"]]
            made[f"{group.name}-{interval}.tests.yaml"] = {
                "rule_files": files,
                "evaluation_interval": interval,
                "group_eval_order": sorted(order, key=lambda name: "recording" not in name),
                "tests": [
                    _test(alert, source["runbook"])
                    for alert in group.alerts
                    if alert.case.interval == interval
                ],
            }
    return made


def _test(alert: Alert, runbook: str) -> dict[str, Any]:
    case = alert.case
    texts = {name: alert.text_then(text) for name, text in alert.annotations(runbook).items()}
    firing = [{"exp_labels": alert.labels_then(), "exp_annotations": texts}]
    return {
        "interval": case.interval,
        "input_series": _series(case),
        "alert_rule_test": [
            {"alertname": alert.alert, "eval_time": time, "exp_alerts": expected}
            for time, expected in (
                (case.silent, []),
                (case.firing, firing),
                (case.resolved, []),
            )
        ],
    }


def _series(case: Case) -> list[dict[str, str]]:
    return [{"series": on_target(name), "values": values} for name, values in case.series.items()]


def on_target(series: str, target: Mapping[str, str] = NODE) -> str:
    """A series' text with a target's labels added, unless it has them."""
    match = _SERIES.fullmatch(series)
    if match is None:
        raise ValueError(f"this is no series: {series}")
    labels = match["labels"] or ""
    more = [f'{name}="{value}"' for name, value in target.items() if f"{name}=" not in labels]
    return f"{match['name']}{{{','.join([*([labels] if labels else []), *more])}}}"
