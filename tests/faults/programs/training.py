"""Training steps of uneven length until killed; tells when each began and ended.

training.py WORKLOAD LOG DEVICE SEED

LOG gets `started N` once a step has started, `finished N` once its finish has returned.
"""

from __future__ import annotations

import os
import random
import sys
import time

from apportion import client

WORKLOAD, LOG, DEVICE, SEED = sys.argv[1:]
LOG_FD = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

lengths = random.Random(int(SEED))
client.init(workload=WORKLOAD, devices=[DEVICE])
number = 0
while True:
    with client.step(number):
        os.write(LOG_FD, f"started {number}\n".encode())
        time.sleep(lengths.uniform(0.05, 1.5))
    os.write(LOG_FD, f"finished {number}\n".encode())
    time.sleep(lengths.uniform(0.0, 0.1))
    number += 1
