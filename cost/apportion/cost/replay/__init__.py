"""Recorded traces: read strictly, apportioned without an agent."""
