"""Every call of the client, where no ring can be made: nothing may be raised or printed."""

from __future__ import annotations

import sys
import warnings

from apportion import client

warnings.simplefilter("error")
client.init(workload="quiet", devices=["0"], tags={"team": "a"})
client.ready()
for number in range(100):
    with client.step(number) as step, step.phase("forward"):
        step.add(tokens=1)
    with client.checkpoint(), client.evaluation():
        client.current_span().add(samples=1)
    request = client.request(f"r{number}", tenant="a", model="m").start()
    request.scheduled()
    request.first_token()
    request.finish("cancelled")


@client.step(1)
def decorated() -> int:
    return 7


sys.exit(decorated() - 7)
