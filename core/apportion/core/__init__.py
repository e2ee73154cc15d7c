"""The shared vocabulary: units, clocks, ids, categories, intervals, records, errors.

Everything here is immutable and depends on the standard library and numpy only.
"""
