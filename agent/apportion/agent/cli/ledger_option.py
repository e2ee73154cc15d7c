"""Which ledger a command means: the one that it is given, or the configured one."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from apportion.agent.config_layers import load_config


def add_ledger(parser: argparse.ArgumentParser) -> None:
    """Add `--ledger` and, to find it otherwise, `--config`."""
    parser.add_argument(
        "--ledger", metavar="PATH|URL", help="the ledger (default: that of the configuration)"
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="the configuration that names the ledger"
    )


def ledger_of(options: argparse.Namespace) -> str:
    """The ledger's path or URL.

    Raises:
        ConfigError: the configuration had to be read and is wrong.
    """
    if options.ledger is not None:
        return str(options.ledger)
    loaded = load_config(
        options.config, os.environ, {}, uid=os.geteuid(), host_name=os.uname().nodename
    )
    return loaded.config.ledger_location
