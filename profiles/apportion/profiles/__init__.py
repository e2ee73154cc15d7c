"""Stacks and profile traces: what ran on a device in each step, and what bounded it.

Readers of several profilers fill the same columns (`device_trace`); everything else is a pure
function of columns.
"""
