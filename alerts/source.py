"""What `source/*.yaml` says: recording rules, and alerts with their words, test and runbook.

`<name>` in a text stands for a parameter of `parameters.yaml`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from alerts.parameters import Parameter, parameters

FOLDER: Final = Path(__file__).parent
PREFIX: Final = "Apportion"
SEVERITIES: Final = ("critical", "warning", "info")
NODE: Final = {"job": "apportion", "instance": "node-1"}
"""The labels of the target in tests."""
_PLACEHOLDER: Final = re.compile(r"<([a-z_]+)>")
_LABEL: Final = re.compile(r"\{\{ \$labels\.([a-z_]+) \}\}")
_VALUE: Final = re.compile(r"\{\{ \$value[^}]* \}\}")


class SourceError(ValueError):
    """What is written in `source/` cannot be used."""


@dataclass(frozen=True, slots=True)
class Record:
    """A recording rule. `meaning` is for the page of the recorded series."""

    record: str
    expr: str
    meaning: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Case:
    """A test: when the alert is silent, firing, and silent again, by promtool's durations.

    `series` are promtool's; the target's labels are added to each. `labels` are those that the
    alert then has beside them, `value` is what `$value` reads as in its texts.
    """

    interval: str
    series: Mapping[str, str]
    silent: str
    firing: str
    resolved: str
    labels: Mapping[str, str]
    value: str


@dataclass(frozen=True, slots=True)
class Alert:
    """An alerting rule. With `fleet` it is about all agents together, not about one target."""

    alert: str
    severity: str
    wait: str
    expr: str
    summary: str
    description: str
    fleet: bool
    meaning: str
    check: Sequence[str]
    do: Sequence[str]
    case: Case

    def annotations(self, runbook: str) -> dict[str, str]:
        """Its texts, as templates, and where the runbook is."""
        return {
            "summary": self.summary,
            "description": self.description,
            "runbook_url": f"{runbook}#{self.alert.lower()}",
        }

    def labels_then(self) -> dict[str, str]:
        """All labels of the alert in its test."""
        return {**({} if self.fleet else NODE), **self.case.labels, "severity": self.severity}

    def text_then(self, template: str) -> str:
        """A template as it reads in the test.

        Raises:
            SourceError: it names a label that the alert does not have.
        """
        labels = self.labels_then()

        def label(match: re.Match[str]) -> str:
            if match[1] not in labels:
                raise SourceError(f"{self.alert}: it has no label {match[1]}: {template}")
            return labels[match[1]]

        return _VALUE.sub(lambda _: self.case.value, _LABEL.sub(label, template))


@dataclass(frozen=True, slots=True)
class Group:
    """One file of `source/`."""

    name: str
    title: str
    records: tuple[Record, ...]
    alerts: tuple[Alert, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """All of it, with the parameters in place."""

    parameters: tuple[Parameter, ...]
    groups: tuple[Group, ...]

    def __getitem__(self, name: str) -> str:
        """A parameter's value."""
        return next(each.value for each in self.parameters if each.name == name)

    @property
    def alerts(self) -> list[Alert]:
        """The alerts of all groups."""
        return [alert for group in self.groups for alert in group.alerts]

    @property
    def records(self) -> list[Record]:
        """The recording rules of all groups."""
        return [record for group in self.groups for record in group.records]


def load(given: Mapping[str, str] | None = None, folder: Path = FOLDER) -> Source:
    """The source with these parameters instead of the defaults.

    Raises:
        SourceError: an unknown key, a text that is none, or a word that is not of a closed list.
        ParameterError: an unknown parameter, or a value that is not of its form.
    """
    known = parameters(given or {}, folder / "parameters.yaml")
    values = {each.name: each.value for each in known}
    files = sorted((folder / "source").glob("*.yaml"))
    return Source(known, tuple(_group(file, values) for file in files))


def _group(path: Path, values: Mapping[str, str]) -> Group:
    try:
        found = yaml.safe_load(_filled(path.read_text(encoding="utf-8"), values))
        return Group(
            name=path.stem,
            title=found["title"],
            records=tuple(_record(**entry) for entry in found.get("records", ())),
            alerts=tuple(_alert(**entry) for entry in found.get("alerts", ())),
        )
    except (SourceError, TypeError, KeyError, yaml.YAMLError) as error:
        raise SourceError(f"{path.name}: {error}") from error


def _filled(text: str, values: Mapping[str, str]) -> str:
    """The text with parameters in place of their placeholders."""
    missing = [name for name in _PLACEHOLDER.findall(text) if name not in values]
    if missing:
        raise SourceError(f"<{missing[0]}> is no parameter; there are {', '.join(values)}")
    return _PLACEHOLDER.sub(lambda match: values[match[1]], text)


def _record(
    record: str, expr: str, meaning: str, labels: Mapping[str, str] | None = None
) -> Record:
    return Record(record, expr, meaning, labels or {})


def _alert(
    alert: str,
    severity: str,
    expr: str,
    summary: str,
    description: str,
    meaning: str,
    check: Sequence[str],
    do: Sequence[str],
    test: Mapping[str, Any],
    wait: str = "0s",
    fleet: bool = False,  # noqa: FBT001, FBT002 - a key of the YAML file
) -> Alert:
    if not alert.startswith(PREFIX):
        raise SourceError(f"{alert}: an alert's name begins with {PREFIX}")
    if severity not in SEVERITIES:
        raise SourceError(f"{alert}: severity {severity} is none of {', '.join(SEVERITIES)}")
    if not check or not do:
        raise SourceError(f"{alert}: the runbook says what to check and what to do")
    for text in (expr, summary, description, meaning, *check, *do):
        # YAML takes a line with an unquoted colon for a mapping.
        if not isinstance(text, str):
            raise SourceError(f"{alert}: this is no text: {text}; put it in quotes")
    case = _case(**test)
    made = Alert(
        *(alert, severity, wait, expr, summary, description, fleet, meaning, check, do, case)
    )
    for template in (summary, description):
        made.text_then(template)
    return made


def _case(
    series: Mapping[str, str],
    silent: str,
    firing: str,
    resolved: str,
    labels: Mapping[str, object] | None = None,
    value: object = "",
    interval: str = "1m",
) -> Case:
    texts = {name: str(text) for name, text in (labels or {}).items()}
    return Case(interval, series, silent, firing, resolved, texts, str(value))
