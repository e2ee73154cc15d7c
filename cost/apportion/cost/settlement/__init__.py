"""Settlement: what a device's time went to, from its watermark to a later instant.

Pure functions over immutable columns; the agent's pipeline feeds them and commits the outcome.
"""
