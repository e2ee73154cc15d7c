"""Prometheus metrics: a catalogue of families, and their exposition from the latest snapshot."""
