"""Sums of the ledger by hour, day and week, made in small pieces: to the unit what its rows say."""
