"""What recording rules record, in numbers, by promtool."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

SPENT = 'apportion_cost_usd_total{model="m",tenant="a",workload="chat",category="direct"}'
TOKENS = 'apportion_tokens_total{model="m",tenant="a",workload="chat",token_type="%s"}'
MOVED = 'apportion_moved_cost_usd_total{from="%s",to="%s",reason="r"}'
SERIES = {
    SPENT: "0+0.003x20",
    SPENT.replace("direct", "allocated_idle"): "0+1x20",
    TOKENS % "input": "0+200x20",
    TOKENS % "cached_input": "0+150x20",
    TOKENS % "output": "0+100x20",
    MOVED % ("unattributed", "direct"): "5x20",
    MOVED % ("direct", "lost"): "2x20",
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
}


@pytest.mark.needs_program("promtool")
def test_recorded_money(repository: Path, tmp_path: Path) -> None:
    """Direct cost over tokens, cached ones counted once; moves net of each other."""
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": text} for name, text in SERIES.items()],
        "promql_expr_test": [
            {
                "expr": f"round(1000 * {name}) / 1000",
                "eval_time": "15m",
                "exp_samples": [
                    {"labels": labels, "value": value} for labels, value in samples.items()
                ],
            }
            for name, samples in WANTED.items()
        ],
    }
    rules = repository / "alerts" / "prometheus" / "money.recording.yaml"
    file = tmp_path / "tests.yaml"
    file.write_text(
        yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": [test]})
    )
    done = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
