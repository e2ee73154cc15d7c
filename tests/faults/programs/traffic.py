"""Spans at a steady rate; each one's name goes to a file once its finish has returned.

traffic.py KIND WORKLOAD COUNT PER_SECOND LOG [DEVICE [CAPACITY]]

KIND is `steps` (each with a phase that is a span too) or `requests` (on two threads, each span
open for a while beside others).
"""

from __future__ import annotations

import os
import sys
import threading
import time

from apportion import client
from apportion.client.layout import DEFAULT_RECORD_CAPACITY

KIND, WORKLOAD, COUNT, PER_SECOND, LOG, *MORE = sys.argv[1:]
THREADS = 2
AT_ONCE = 5
LOG_FD = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def finished(name: str) -> None:
    """Unbuffered: it must be there when this process is killed at the next instruction."""
    os.write(LOG_FD, f"{name}\n".encode())


def wait_until(start_s: float, done: float, per_second: float) -> None:
    """Until `done` spans are due; late ones are caught up with."""
    time.sleep(max(0.0, start_s + done / per_second - time.monotonic()))


def steps(count: int, per_second: float) -> None:
    """Steps one after the other, each with one phase."""
    start_s = time.monotonic()
    for number in range(count):
        with client.step(number) as step:
            with step.phase("forward"):
                wait_until(start_s, number + 0.5, per_second)
            finished(f"{WORKLOAD}/{number}/forward")
            wait_until(start_s, number + 0.9, per_second)
            step.add(tokens=8)
        finished(f"{WORKLOAD}/{number}")
        wait_until(start_s, number + 1, per_second)


def requests(count: int, per_second: float, thread: int) -> None:
    """Requests in small overlapping groups."""
    start_s = time.monotonic()
    for first in range(0, count, AT_ONCE):
        names = [f"{WORKLOAD}-{thread}-{n}" for n in range(first, min(count, first + AT_ONCE))]
        spans = [client.request(name, tenant="a", model="m").start() for name in names]
        for span in spans:
            span.scheduled()
            span.add(input_tokens=3, cached_input_tokens=1)
        wait_until(start_s, first + AT_ONCE / 2, per_second)
        for name, span in zip(names, spans, strict=True):
            span.first_token()
            span.add(output_tokens=2)
            span.finish()
            finished(name)
        wait_until(start_s, first + AT_ONCE, per_second)


capacity = int(MORE[1]) if len(MORE) > 1 else DEFAULT_RECORD_CAPACITY
client.init(workload=WORKLOAD, devices=MORE[:1] or None, capacity=capacity)
if KIND == "steps":
    steps(int(COUNT), float(PER_SECOND))
else:
    parts = [
        threading.Thread(
            target=requests, args=(int(COUNT) // THREADS, float(PER_SECOND) / THREADS, thread)
        )
        for thread in range(THREADS)
    ]
    for part in parts:
        part.start()
    for part in parts:
        part.join()
