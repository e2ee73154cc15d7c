"""Which ledger a command means: the one that it is given, or the configured one."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from apportion.agent.config_layers import load_config
from apportion.core.errors import ConfigError


def add_ledger(parser: argparse.ArgumentParser) -> None:
    """Add `--ledger` and `--shared` and, to find it otherwise, `--config`."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--ledger", metavar="PATH|URL", help="the ledger (default: that of the configuration)"
    )
    which.add_argument(
        "--shared",
        action="store_true",
        help="the configuration's shared ledger: no URL, and no password, among the arguments",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="the configuration that names the ledger"
    )


def ledger_of(options: argparse.Namespace) -> str:
    """The ledger's path or URL.

    Raises:
        ConfigError: the configuration had to be read and is wrong, or names no shared ledger.
    """
    if options.ledger is not None:
        return str(options.ledger)
    config = load_config(
        options.config, os.environ, {}, uid=os.geteuid(), host_name=os.uname().nodename
    ).config
    if not options.shared:
        return config.ledger_location
    if config.shared_ledger is None:
        raise ConfigError("--shared: the configuration names no `shared_ledger`")
    return config.shared_ledger
