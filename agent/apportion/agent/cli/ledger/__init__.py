"""`apportion ledger`: what a ledger needs over the years. Each action is a module here."""

from __future__ import annotations

from apportion.agent.cli.ledger.command import COMMAND

__all__ = ["COMMAND"]
