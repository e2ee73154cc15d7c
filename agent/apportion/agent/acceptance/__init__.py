"""`apportion doctor --accept`: what a person with a real GPU node runs once, and keeps."""

from __future__ import annotations

from apportion.agent.acceptance.acceptance import LONGEST_NS, Plan, accept
from apportion.agent.acceptance.page import page

__all__ = ["LONGEST_NS", "Plan", "accept", "page"]
