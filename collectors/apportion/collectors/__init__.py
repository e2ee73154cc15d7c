"""Sources of facts about devices: one file per source, each behind the `Collector` protocol.

`registry` knows every source by name, `observed` measures each one, `once` runs one alone.
NVML is read in a child process (`nvml_process` starts it, `nvml_child` is it), so this package
imports nothing by itself: the child pays only for what it uses.
"""
