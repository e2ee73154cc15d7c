"""The book: its tables, the one transaction that each tick is, and what is read back from it."""
