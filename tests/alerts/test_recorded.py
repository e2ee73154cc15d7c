"""What recording rules record, in numbers, by promtool."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

SPENT = 'apportion_cost_usd_total{model="m",tenant="a",workload="chat",category="direct"}'
TOKENS = 'apportion_tokens_total{model="m",tenant="a",workload="chat",token_type="%s"}'
MOVED = 'apportion_moved_cost_usd_total{from="%s",to="%s",reason="r"}'
ADJUSTED = 'apportion_adjusted_cost_usd_total{category="direct",reason="new_price",change="%s"}'
SERIES = {
    SPENT: "0+0.003x20",
    SPENT.replace("direct", "allocated_idle"): "0+1x20",
    TOKENS % "input": "0+200x20",
    TOKENS % "cached_input": "0+150x20",
    TOKENS % "output": "0+100x20",
    MOVED % ("unattributed", "direct"): "5x20",
    MOVED % ("direct", "lost"): "2x20",
    ADJUSTED % "raised": "3x20",
    ADJUSTED % "lowered": "7x20",
}
RUN = 'workload="train",run="run-1"'
TIME = f"apportion_device_seconds_total{{{RUN},category=" + '"%s"}'
LOST = f"apportion_lost_device_seconds_total{{{RUN}" + ',from="%s",reason="%s"}'
TRAINED = {
    TIME % "direct": "0+80x90",
    TIME % "startup": "0+20x90",
    LOST % ("direct", "rolled_back"): "0x60 900x30",
    LOST % ("direct", "process_died"): "0x90",
    LOST % ("allocated_idle", "hang"): "0x60 500x30",
}
WANTED = {
    "llm_cost_per_million_tokens": {'{cost_basis="usage",model_name="m"}': 10.0},
    "workload_model_tenant:apportion_cost_usd_per_million_tokens:rate5m": {
        '{model="m",tenant="a",workload="chat"}': 10.0
    },
    "category:apportion_moved_cost_usd:net": {
        '{category="direct"}': 3.0,
        '{category="lost"}': 2.0,
        '{category="unattributed"}': -5.0,
    },
    "category:apportion_adjusted_cost_usd:net": {'{category="direct"}': -4.0},
}


GOODPUT = "workload_run:apportion_goodput:ratio_rate1h"
KEPT = [
    ("60m", {GOODPUT: {'{workload="train",run="run-1"}': 0.8}}),
    ("80m", {GOODPUT: {'{workload="train",run="run-1"}': 0.65}}),
]
"""Before and after 900 of the hour's 4,800 seconds in steps turn out to be lost: 3,900 / 6,000."""


@pytest.mark.needs_program("promtool")
@pytest.mark.parametrize(
    ("group", "series", "at", "wanted"),
    [("money", SERIES, "15m", WANTED), *(("training", TRAINED, *each) for each in KEPT)],
)
def test_what_is_recorded(
    repository: Path,
    tmp_path: Path,
    group: str,
    series: Mapping[str, str],
    at: str,
    wanted: Mapping[str, Mapping[str, float]],
) -> None:
    """Cost over tokens, cached ones once; moves net of each other; goodput less lost steps."""
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": text} for name, text in series.items()],
        "promql_expr_test": [
            {
                "expr": f"round(1000 * {name}) / 1000",
                "eval_time": at,
                "exp_samples": [
                    {"labels": labels, "value": value} for labels, value in samples.items()
                ],
            }
            for name, samples in wanted.items()
        ],
    }
    rules = repository / "alerts" / "prometheus" / f"{group}.recording.yaml"
    file = tmp_path / "tests.yaml"
    file.write_text(
        yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": [test]})
    )
    done = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
