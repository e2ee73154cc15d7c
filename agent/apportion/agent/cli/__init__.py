"""The command line of the `agent` extra; the dispatcher in the base calls `main`."""

from __future__ import annotations

from apportion.agent.cli.command import main

__all__ = ["main"]
