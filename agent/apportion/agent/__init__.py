"""The daemon: configuration, lifecycle, ingest, pipeline, metrics, HTTP and the command line.

The only part that wires concrete classes of the others together. Of the client it knows one
module, the ring's layout.
"""
