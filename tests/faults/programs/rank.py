"""One rank of a trainer, or with KIND `server` a server: a few spans on what it was given.

rank.py KIND WORKLOAD

It goes on until its input ends.
"""

from __future__ import annotations

import sys
import threading
import time

from apportion import client

KIND, WORKLOAD = sys.argv[1:]

client.init(workload=WORKLOAD)
over = threading.Event()


def watch() -> None:
    """The end of the input is the end of this program."""
    sys.stdin.read()
    over.set()


threading.Thread(target=watch, daemon=True).start()
number = 0
while not over.is_set():
    span = client.step(number) if KIND == "rank" else client.request(f"{WORKLOAD}-{number}")
    with span:
        time.sleep(0.05)
    number += 1
