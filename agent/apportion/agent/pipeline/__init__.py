"""From records and readings to committed settlements: one thread, one tick at a time."""
