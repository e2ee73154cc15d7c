"""`apportion agent`: the daemon in the foreground, until a signal."""

from __future__ import annotations

import argparse
import logging
import sys
from typing import Final

from apportion.agent.cli.command import Command
from apportion.agent.cli.config_options import add_config_options, config_of

_QUIET: Final = ("alembic", "asyncio", "sqlalchemy", "uvicorn")
"""Libraries whose own reports matter only from a warning on."""


def _run(options: argparse.Namespace) -> int:
    from apportion.agent.daemon import run  # noqa: PLC0415 - --help needs no daemon

    loaded = config_of(options)
    for warning in loaded.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    return run(loaded.config)


COMMAND = Command(
    "Runs the daemon in the foreground. SIGTERM or SIGINT stops it, a second one at once.",
    add_config_options,
    _run,
)
