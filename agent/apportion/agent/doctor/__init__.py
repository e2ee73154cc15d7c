"""The doctor: looks at everything the daemon needs, changes nothing, and names remedies."""

from __future__ import annotations

from apportion.agent.doctor.examination import examine
from apportion.agent.doctor.finding import Finding, Level

__all__ = ["Finding", "Level", "examine"]
