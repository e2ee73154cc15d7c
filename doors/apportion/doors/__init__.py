"""Doors for programs that cannot share memory: what they say becomes rings, as a client's would.

A door is a workload that speaks for others. It writes the same files, so nothing behind it is
different: a span is believed, charged and counted once, and survives the end of either side.
"""
