"""Which ledger a command means: the one that it is given, or the configured one."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from apportion.core.errors import ConfigError


def add_ledger(parser: argparse._ActionsContainer, *, several: bool = False) -> None:
    """Add `--ledger` and `--shared` and, to find it otherwise, `--config`."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--ledger",
        metavar="PATH|URL",
        action="append" if several else "store",
        help="the ledger (default: that of the configuration)"
        + ("; several files are read as one" if several else ""),
    )
    which.add_argument(
        "--shared",
        action="store_true",
        help="the configuration's shared ledger: no URL, and no password, among the arguments",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="the configuration that names the ledger"
    )


def add_ledgers(parser: argparse._ActionsContainer) -> None:
    """The same, but `--ledger` may be given several times: the files are read as one."""
    add_ledger(parser, several=True)


def ledgers_of(options: argparse.Namespace) -> list[str]:
    """The paths or URLs.

    Raises:
        ConfigError: as `ledger_of`.
    """
    if options.ledger:
        return [str(each) for each in options.ledger]
    return [ledger_of(argparse.Namespace(**{**vars(options), "ledger": None}))]


def ledger_of(options: argparse.Namespace) -> str:
    """The ledger's path or URL.

    Raises:
        ConfigError: the configuration had to be read and is wrong, or names no shared ledger.
    """
    if options.ledger is not None:
        return str(options.ledger)
    from apportion.agent.config_layers import load_config  # noqa: PLC0415 - it takes pydantic

    config = load_config(
        options.config, os.environ, {}, uid=os.geteuid(), host_name=os.uname().nodename
    ).config
    if not options.shared:
        return config.ledger_location
    if config.shared_ledger is None:
        raise ConfigError("--shared: the configuration names no `shared_ledger`")
    return config.shared_ledger
