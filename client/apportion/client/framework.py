"""What a framework that the program already runs says about CUDA. It is never imported here.

On CUDA the host's clock measures launches, not execution, so spans say which clock they carry.
"""

from __future__ import annotations

import sys
from time import monotonic_ns
from typing import Any, Final

from apportion.client.counting import count
from apportion.client.flight_recorder import flight_recorder
from apportion.client.layout import CLOCK_HOST_LAUNCH, CLOCK_SHIFT, WORD_DEVICE
from apportion.client.ring import Ring
from apportion.client.session import session
from apportion.client.surroundings import surroundings

LAUNCH_CLOCK: Final = CLOCK_HOST_LAUNCH << CLOCK_SHIFT
"""In the bits of `packed`."""

UUID_PREFIX: Final = "GPU-"


def cuda_initialised() -> bool:
    """True once PyTorch has initialised CUDA in this process; asking does not initialise it."""
    torch: Any = sys.modules.get("torch")
    # A half-imported torch has no `cuda` yet.
    initialised: Any = getattr(getattr(torch, "cuda", None), "is_initialized", None)
    return initialised is not None and initialised() is True


def current_device() -> str | None:
    """UUID of PyTorch's current CUDA device, as `GPU-<uuid>`; call it on initialised CUDA only.

    None where this PyTorch does not say (before 2.3, or ROCm).
    """
    cuda: Any = sys.modules["torch"].cuda
    uuid: Any = getattr(cuda.get_device_properties(cuda.current_device()), "uuid", None)
    if uuid is None:
        return None
    text = str(uuid)
    return text if text.startswith((UUID_PREFIX, "MIG-")) else UUID_PREFIX + text


def clock_bits_of(ring: Ring) -> int:
    """Bits of `packed` for the clock that spans carry now.

    When CUDA turns out initialised, its device goes into the ring, once.
    """
    try:
        surroundings.look()
        if surroundings.torch:
            flight_recorder.look(ring.path, monotonic_ns())
        if not ring.clock_bits and surroundings.cuda and cuda_initialised():
            ring.clock_bits = LAUNCH_CLOCK
            device = current_device()
            if device is not None:
                ring.add_word(device, WORD_DEVICE)
    except Exception:  # noqa: BLE001 - whatever the framework raises, the span goes on
        count("internal_error")
    session.review(ring)
    return ring.clock_bits
