"""Sums of the ledger by hour, day and week: made in small pieces, exactly what their rows add to."""
