"""Configurations and price tables that are wrong: refused, with file and line."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.faults.node import PRICES, Node

from apportion.agent.cli import main

Refuse = Callable[[Path, Path, int, str], None]
"""Configuration, the file and line that are wrong, and what must be said."""
TWO_ROWS = PRICES + PRICES.removeprefix("prices:\n")
PRICE_TABLES = {
    "unknown key": (PRICES.replace("basis:", "bases:"), 6, "unknown key 'bases'"),
    "negative price": (PRICES.replace('"2.40"', '"-2.40"'), 3, "negative"),
    "price that is a float": (PRICES.replace('"2.40"', "2.40"), 3, "quote it"),
    "missing currency": (PRICES.replace("    currency: USD\n", ""), 2, "no 'currency'"),
    "overlapping dates": (
        TWO_ROWS.replace("2026-05-01\n  -", "2026-05-01\n    to: 2026-07-01\n  -")
        + "    from: 2026-06-01\n",
        10,
        "overlap",
    ),
    "two currencies": (PRICES + TWO_ROWS[len(PRICES) :].replace("USD", "EUR"), 9, "EUR"),
    "not YAML": (PRICES + "  - [\n", 10, "not YAML"),
}
CONFIGS = {
    "unknown key": ("devices: simulator\ntick_perod: 1s\n", 2, "did you mean 'tick_period'"),
    "wrong value": ("devices: simulator\n\ntick_period: soon\n", 3, "tick_period"),
    "negative period": ("lateness: -1s\n", 1, "lateness"),
    "unknown device source": ("devices: tpu\n", 1, "devices"),
    "not a mapping": ("- devices\n", 1, "mapping"),
}


@pytest.fixture
def refuse(node: Node, capsys: pytest.CaptureFixture[str]) -> Iterator[Refuse]:
    """The agent must end with status 2 and one line that names `file:line` and the mistake.

    It ends before it starts anything, so it is called here: a process each takes seconds.
    """

    def run(config: Path, file: Path, line: int, text: str) -> None:
        assert main(["agent", "--config", str(config)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        (sentence,) = captured.err.splitlines()
        assert sentence.startswith(f"apportion: {file}:{line}: ")
        assert text in sentence

    logger = logging.getLogger()
    handlers, level = list(logger.handlers), logger.level
    yield run
    logger.handlers[:] = handlers  # the agent logs to a stream that ends with this test
    logger.setLevel(level)


@pytest.mark.parametrize("mistake", PRICE_TABLES)
def test_malformed_price_table(node: Node, refuse: Refuse, mistake: str) -> None:
    """A price table that is not understood to the last key meters nothing at all."""
    table, line, text = PRICE_TABLES[mistake]
    node.prices.write_text(table)
    refuse(node.config(), node.prices, line, text)


@pytest.mark.parametrize("mistake", CONFIGS)
def test_malformed_configuration(node: Node, refuse: Refuse, mistake: str) -> None:
    """A misspelt key is no default: it is refused where it stands."""
    written, line, text = CONFIGS[mistake]
    config = node.root / "wrong.yaml"
    config.write_text(written)
    refuse(config, config, line, text)


def test_missing_price_table(node: Node) -> None:
    """A price table that is named must be there."""
    node.prices.unlink()
    done = node.run("agent", "--config", node.config())
    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith(f"apportion: {node.prices}: cannot be read: ")


def test_another_currency_than_the_ledger(node: Node) -> None:
    """One ledger has one currency: new prices in another are refused, not mixed."""
    first = node.agent().until_ready()
    assert first.stop() == 0
    node.prices.write_text(PRICES.replace("USD", "EUR"))
    second = node.agent()
    assert second.process.wait(60) == 2
    assert "one ledger has one currency" in second.log.splitlines()[-1]
    assert "Traceback" not in second.log
