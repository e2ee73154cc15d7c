"""A `libnvidia-ml.so.1` that answers as real GPUs do, and the controller that drives it.

Nothing that comes out of here was measured on a GPU. It is for tests and for the demo, it is
never a silent fallback, and what runs on it says so: the driver's and the library's version end
in `SIMULATED_MARK`, and the library exports the symbol `apportionSimulator`.

    library = build()                                    # compiles the C sources once
    with Simulator(state, profile=PROFILES["h100"], devices=8) as simulator:
        with simulator.running():                        # publishes every 100 ms
            simulator.set_utilization(0, 0.9)
            subprocess.run(command, env={**os.environ, **environment(state, library)})
"""

from __future__ import annotations

from apportion.simulator.build import BuildError, build, environment
from apportion.simulator.controller import Simulator
from apportion.simulator.identity import SIMULATED_MARK, STATE_VARIABLE
from apportion.simulator.mirror import Mirror
from apportion.simulator.profiles import PROFILES, Profile
from apportion.simulator.publication import ProcessLoad

__all__ = [
    "PROFILES",
    "SIMULATED_MARK",
    "STATE_VARIABLE",
    "BuildError",
    "Mirror",
    "ProcessLoad",
    "Profile",
    "Simulator",
    "build",
    "environment",
]
