"""The CPU as the device: outermost operators of each thread stand in for kernels."""

from __future__ import annotations

import numpy as np

from apportion.profiles.device_trace import DeviceEvents, HostSpans


def cpu_events(operators: HostSpans) -> DeviceEvents:
    """Operators that no other operator of their thread holds; a thread is a stream.

    An operator is launched where it runs, at once: what lies between two is host wait.
    """
    order = np.lexsort((-operators.duration_ns, operators.start_ns, operators.thread))
    own = operators.where(order)
    # threads lie behind each other on one axis, so that one running maximum serves all
    lane = np.searchsorted(np.unique(own.thread), own.thread)
    zero_ns = int(own.start_ns.min()) if len(own) else 0
    width_ns = int((own.end_ns - zero_ns).max()) + 1 if len(own) else 1
    start_ns = own.start_ns - zero_ns + lane * width_ns
    reached_ns = np.maximum.accumulate(start_ns + own.duration_ns)
    outermost = np.ones(len(own), dtype=np.bool_)
    outermost[1:] = start_ns[1:] >= reached_ns[:-1]
    chosen = own.where(outermost)
    chosen = chosen.where(np.argsort(chosen.start_ns, kind="stable"))
    none = np.zeros(len(chosen), dtype=np.int64)
    return DeviceEvents(
        name=chosen.name,
        device=none,
        stream=chosen.thread,
        start_ns=chosen.start_ns,
        duration_ns=chosen.duration_ns,
        size_bytes=none,
        launch_ns=chosen.start_ns,
        launch_thread=chosen.thread,
        launched=np.ones(len(chosen), dtype=np.bool_),
    )
