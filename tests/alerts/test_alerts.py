"""Alerts: their source is one, its files are in step, and promtool finds each rule to work."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from alerts import grafana
from alerts.__main__ import files, main
from alerts.prometheus import on_target
from alerts.source import Source, SourceError, load
from tests.promql import declared, labels_of, selectors, undeclared

from apportion.agent import cli
from apportion.agent.latency import BOUNDS_NS

MADE = {"category", "model_name"}
"""Labels that `label_replace` makes in a recording rule."""


@pytest.fixture(scope="module")
def source() -> Source:
    return load()


@pytest.fixture(scope="module")
def folder(repository: Path) -> Path:
    return repository / "alerts" / "prometheus"


def rules_of(folder: Path, pattern: str) -> list[dict[str, Any]]:
    return [
        rule
        for file in sorted(folder.glob(pattern))
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
    ]


def recorded(source: Source) -> dict[str, frozenset[str]]:
    """The labels of each recorded series."""
    known = declared(source["currency"])
    return {
        record.record: labels_of(record.expr, known) | set(record.labels)
        for record in source.records
    }


def test_every_file_is_in_step() -> None:
    """What is committed is what the source says today."""
    assert main(["--check"]) == 0


def test_no_file_is_left_over(repository: Path, source: Source) -> None:
    """A group that was renamed leaves no rules behind that nobody checks."""
    found = {
        path.relative_to(repository)
        for name in ("prometheus", "grafana")
        for path in (repository / "alerts" / name).iterdir()
    }
    assert found == {path for path in files(source) if path.parts[0] == "alerts"}


@pytest.mark.needs_program("promtool")
def test_rules_are_valid(folder: Path) -> None:
    """Prometheus would load them."""
    paths = [path.name for path in sorted(folder.glob("*.yaml")) if "tests" not in path.name]
    done = subprocess.run(
        ["promtool", "check", "rules", *paths],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "duplicate" not in done.stdout


@pytest.mark.needs_program("promtool")
def test_each_alert_is_silent_then_fires_then_resolves(folder: Path) -> None:
    """promtool evaluates every rule on its series, labels and texts included."""
    paths = [path.name for path in sorted(folder.glob("*.tests.yaml"))]
    assert paths
    done = subprocess.run(
        ["promtool", "test", "rules", *paths],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_its_test(folder: Path) -> None:
    """Silent, firing and resolved are asked of each alert, at three different times."""
    alerts = {rule["alert"] for rule in rules_of(folder, "*.alerts.yaml")}
    asked: dict[str, list[int]] = {}
    for file in folder.glob("*.tests.yaml"):
        for test in yaml.safe_load(file.read_text())["tests"]:
            for each in test["alert_rule_test"]:
                asked.setdefault(each["alertname"], []).append(len(each["exp_alerts"]))
    assert len(alerts) > 50
    assert asked == {alert: [0, 1, 0] for alert in alerts}


def test_each_alert_leads_to_its_section(repository: Path, folder: Path) -> None:
    """The link of an alert ends at a heading of the runbook, and no heading is without alert."""
    page = (repository / "docs" / "runbook.md").read_text()
    headings = re.findall(r"^### (.+)$", page, re.MULTILINE)
    anchors = [f"docs/runbook.md#{heading.lower()}" for heading in headings]
    urls = [r["annotations"]["runbook_url"] for r in rules_of(folder, "*.alerts.yaml")]
    assert sorted(anchors) == sorted(urls)
    assert len(set(urls)) == len(urls)


def test_the_runbook_names_commands_that_exist(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who is called at night must not be told to type what there is not."""
    page = (repository / "docs" / "runbook.md").read_text()
    commands = sorted(set(re.findall(r"`apportion ([^`]+)`", page)))
    assert len(commands) > 10
    for command in commands:
        words = re.match(r"[a-z]+( [a-z]+)*", command)
        assert words is not None, command
        assert cli.main([*words[0].split(), "--help"]) == 0, command
        said = capsys.readouterr().out
        for flag in re.findall(r"--[a-z-]+", command):
            assert flag in said, command


def test_rules_name_only_what_the_catalogue_has(source: Source) -> None:
    """A family or a label that is renamed fails here, not as an alert that never fires."""
    known = declared("usd") | recorded(source)
    problems = {
        name: found
        for name, expression in (
            *((record.record, record.expr) for record in source.records),
            *((alert.alert, alert.expr) for alert in source.alerts),
        )
        if (found := undeclared(expression, known, MADE))
    }
    assert problems == {}


def test_tests_feed_only_what_the_catalogue_has(source: Source) -> None:
    """A test cannot pass on a series that no agent shows."""
    known = declared("usd")
    for alert in source.alerts:
        for series in alert.case.series:
            assert undeclared(on_target(series), known) == [], alert.alert


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("apportion_gone", "no such series: apportion_gone"),
        ('apportion_device_up{pod="a"} == 0', "apportion_device_up has no label pod"),
        ("sum by (tenant) (rate(apportion_steps_total[5m]))", "no label tenant here"),
        ("apportion_device_up * on (gone) up", "no label gone here"),
    ],
)
def test_a_wrong_name_is_found(expression: str, problem: str) -> None:
    """The check above can fail."""
    assert undeclared(expression, declared("usd")) == [problem]


def test_grafana_says_the_same(repository: Path, folder: Path) -> None:
    """Each rule of Prometheus is one of Grafana's, with its expression, delay, labels and texts."""
    provisioned = yaml.safe_load((repository / "alerts/grafana/apportion.yaml").read_text())
    theirs = {rule["title"]: rule for group in provisioned["groups"] for rule in group["rules"]}
    ours = {rule["alert"]: rule for rule in rules_of(folder, "*.alerts.yaml")}
    assert theirs.keys() == ours.keys()
    assert len({rule["uid"] for rule in theirs.values()}) == len(theirs)
    for name, rule in ours.items():
        other = theirs[name]
        query, condition = other["data"]
        assert query["model"]["expr"] == rule["expr"]
        assert (other["for"], other["labels"]) == (rule["for"], rule["labels"])
        assert other["condition"] == condition["refId"] == "C"
        assert "$A" in condition["model"]["expression"]
        assert {
            key: text.replace("$values.A.Value", "$value")
            for key, text in other["annotations"].items()
        } == rule["annotations"]


def test_what_is_held_back_exists(repository: Path, source: Source) -> None:
    """Alertmanager takes a label that both alerts lack for equal: it would hold back everything."""
    config = yaml.safe_load((repository / "alerts" / "alertmanager.yaml").read_text())
    labels = {alert.alert: set(alert.labels_then()) for alert in source.alerts}
    for rule in config["inhibit_rules"]:
        (cause,), (effects,) = (
            re.findall(r'^alertname=~?"(.+)"$', rule[key][0])
            for key in ("source_matchers", "target_matchers")
        )
        for name in {cause, *effects.split("|")} - {"Apportion.*"}:
            assert set(rule["equal"]) <= labels[name], name


def test_grafana_has_no_id_too_long() -> None:
    """Grafana refuses a file with an id of more than 40 characters."""
    assert grafana.uid("ApportionRingLoss") == "apportion-ring-loss"
    with pytest.raises(ValueError, match="at most 40"):
        grafana.uid("Apportion" + "Long" * 9)


def test_the_currency_is_a_parameter(tmp_path: Path) -> None:
    """A ledger in another currency gets rules whose every series it has."""
    assert main(["--set", "currency=eur", "--output", str(tmp_path)]) == 0
    text = "".join(path.read_text() for path in tmp_path.rglob("*.*"))
    assert "_usd_" not in text
    in_euro = load({"currency": "eur"})
    known = declared("eur") | recorded(in_euro)
    for alert in in_euro.alerts:
        assert undeclared(alert.expr, known, MADE) == [], alert.alert
    assert any(
        selector.name == "apportion_cost_eur_total"
        for record in in_euro.records
        for selector in selectors(record.expr)
    )


def test_each_parameter_is_used(source: Source, repository: Path) -> None:
    """What can be set changes something, and the page says what it is."""
    texts = "".join(path.read_text() for path in (repository / "alerts" / "source").iterdir())
    page = (repository / "docs" / "alerts.md").read_text()
    for parameter in source.parameters:
        used = f"<{parameter.name}>" in texts or parameter.name in {"runbook", "datasource"}
        assert used, parameter.name
        assert f"`{parameter.name}`" in page


def test_the_objectives_are_bounds_of_our_histograms(source: Source) -> None:
    """Between two bounds nobody could say how many were too late."""
    bounds = {repr(bound / 1e9) for bound in BOUNDS_NS}
    assert {source["ttft_seconds"], source["step_seconds"]} <= bounds


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("curency=eur", "no such parameter: curency"),
        ("currency", "--set wants NAME=VALUE"),
        ("currency=EUR", "currency=EUR: it wants a currency's three letters in lower case"),
        ("job=a b", "job=a b: it wants a name"),
        ('runbook=a"', "it wants a path or a URL"),
        ("ttft_seconds=abc", "ttft_seconds=abc: it wants seconds with a decimal point"),
        ("ttft_seconds=1", "such as 0.5"),
        ("goodput=80", "goodput=80: it wants a share between 0 and 1"),
        ("step_objective=1.0", "it wants a share"),
        ("stuck_after=bogus", "stuck_after=bogus: it wants a duration"),
        ("stuck_after=0m", "it wants a duration"),
        ("monthly_budget=0.00", "monthly_budget=0.00: it wants an amount above 0"),
        ("min_requests=0", "min_requests=0: it wants a whole number above 0"),
        ("xid_link=.*", "xid_link=.*: it wants XID codes"),
    ],
)
def test_a_wrong_parameter_is_named(
    argument: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistyped name or value must not give rules that silently miss what they watch."""
    with pytest.raises(SystemExit):
        main(["--set", argument, "--output", str(tmp_path)])
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "argument",
    ["currency=jpy", "stuck_after=1h30m", "monthly_budget=1250.50", "xid_link=79", "goodput=0.05"],
)
def test_what_an_operator_would_set_can_be(argument: str, tmp_path: Path) -> None:
    """The forms are wide enough."""
    assert main(["--set", argument, "--output", str(tmp_path)]) == 0


def test_a_folder_keeps_what_was_set_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who changes one parameter at night keeps the others, and reads which ones hold."""
    output = ["--output", str(tmp_path)]
    assert main(["--set", "currency=eur", "--set", "job=gpu", *output]) == 0
    capsys.readouterr()
    assert main(["--set", "cost_per_million_tokens=20", *output]) == 0
    assert "with cost_per_million_tokens=20 currency=eur job=gpu\n" in capsys.readouterr().out
    text = "".join(path.read_text() for path in tmp_path.rglob("*.alerts.yaml"))
    assert "_usd_" not in text
    assert 'up{job="gpu"}' in text
    assert "> 20" in text
    assert main(["--check", *output]) == 0
    (tmp_path / "alerts/parameters.yaml").write_text("job: gpu\nttft_objective: 0.95\n")
    assert main(["--check", *output]) == 1
    assert main(output) == 0
    assert "(1 - 0.95)" in (tmp_path / "alerts/prometheus/serving.alerts.yaml").read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [("- job", "lines of NAME: VALUE"), ("a: b: c", "is no YAML"), ("job: {}", "job={}: it wants")],
)
def test_a_damaged_choice_is_named(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Settings that cannot be read are not taken for none."""
    (tmp_path / "alerts").mkdir()
    (tmp_path / "alerts/parameters.yaml").write_text(text)
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path)])
    assert said in capsys.readouterr().err


def test_the_repositorys_own_files_have_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    """A command without a folder writes nobody's settings over the committed files."""
    with pytest.raises(SystemExit):
        main(["--set", "job=gpu"])
    assert "--set wants --output FOLDER" in capsys.readouterr().err
    assert main(["--check"]) == 0


GOOD = """
title: T
alerts:
  - alert: ApportionThing
    severity: info
    expr: up == 0
    summary: It of {{ $labels.instance }}
    description: It is {{ $value }}.
    meaning: M
    check: [c]
    do: [d]
    test: {series: {up: 1x5}, silent: 1m, firing: 2m, resolved: 3m}
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("severity: info", "severity: loud", "severity loud is none of"),
        ("ApportionThing", "Thing", "begins with Apportion"),
        ("$labels.instance", "$labels.device", "has no label device"),
        ("up == 0", "up == <zero>", "<zero> is no parameter"),
        ("check: [c]", "check: []", "what to check"),
        ("do: [d]", "done: [d]", "done"),
        ("meaning: M", "meaning: M\n    owner: me", "owner"),
        ("check: [c]", "check: [{a: c}]", "this is no text: {'a': 'c'}; put it in quotes"),
        ("meaning: M", "meaning: 1", "this is no text: 1"),
    ],
)
def test_a_mistake_in_the_source_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    """File and alert are in the message; a template without its label is found."""
    (tmp_path / "source").mkdir()
    (tmp_path / "parameters.yaml").write_text("job: {value: a, form: name, help: h}\n")
    place = tmp_path / "source" / "one.yaml"
    place.write_text(GOOD)
    assert load(folder=tmp_path).alerts[0].labels_then()["instance"] == "node-1"
    place.write_text(GOOD.replace(old, new))
    with pytest.raises(SourceError, match=re.escape(said)):
        load(folder=tmp_path)
