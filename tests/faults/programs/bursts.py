"""Writes a burst of requests for each line that it reads; answers `done` when they have ended.

bursts.py WORKLOAD DEVICE CAPACITY

A line is how many. One long request stays open beside them until the input ends.
"""

from __future__ import annotations

import sys

from apportion import client

WORKLOAD, DEVICE, CAPACITY = sys.argv[1:]

client.init(workload=WORKLOAD, devices=[DEVICE], capacity=int(CAPACITY))
beside = client.request("beside").start()
beside.scheduled()
number = 0
for line in sys.stdin:
    for _ in range(int(line)):
        with client.request(f"burst-{number}") as request:
            request.scheduled()
        number += 1
    sys.stdout.write("done\n")
    sys.stdout.flush()
beside.finish()
