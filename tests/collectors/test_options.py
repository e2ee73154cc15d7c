"""Options from a command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from apportion.collectors.options import CollectorOptions
from apportion.core.errors import ConfigError


def test_texts_become_paths_and_nanoseconds() -> None:
    """Seconds may have decimals."""
    options = CollectorOptions.parse(
        {"proc_root": "/p", "sys_root": "/s", "host_name": "n", "period": "0.25", "deadline": "3"}
    )
    assert options == CollectorOptions(
        Path("/p"), Path("/s"), "n", period_ns=250_000_000, deadline_ns=3_000_000_000
    )


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", "inf", "86401", ""])
def test_impossible_durations_are_refused(text: str) -> None:
    """The message shows what a good one looks like."""
    with pytest.raises(ConfigError, match=r"such as 1\.5"):
        CollectorOptions.parse({"period": text})


def test_unknown_options_are_named() -> None:
    """With the known ones."""
    with pytest.raises(ConfigError, match=r"'interval'.*proc_root.*period"):
        CollectorOptions.parse({"interval": "1"})
