"""In which pod settled time was spent: by who holds the devices that it was spent on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from apportion.core.allocation import Pod
from apportion.cost.settlement.work import NOBODY

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from apportion.agent.pipeline.registry import Registry
    from apportion.cost.settlement.settle import Settled


class Pods:
    """`holder_of(device)` is the pod that alone holds a device; None where none or several do."""

    def __init__(self, registry: Registry, holder_of: Callable[[str], Pod | None]) -> None:
        self._registry, self._holder_of = registry, holder_of

    def of_rows(self, settled: Settled) -> tuple[list[Pod | None], NDArray[np.int64]]:
        """Pods, and for each row of the work (roots, then time without a span) which one of them.

        Time of nobody is in no pod. What a scheduler's owner has on a shared device is in its own.
        """
        pods: list[Pod | None] = [None]
        places: dict[Pod | None, int] = {None: 0}
        by_group: dict[int, Pod | None] = {}

        def place(pod: Pod | None) -> int:
            known = places.setdefault(pod, len(pods))
            if known == len(pods):
                pods.append(pod)
            return known

        def of_group(group: int) -> Pod | None:
            if group not in by_group:
                by_group[group] = self._of(self._registry.groups.value(group))
            return by_group[group]

        groups, inverse = np.unique(settled.roots["group"], return_inverse=True)
        of_roots = np.array([place(of_group(group)) for group in groups.tolist()], np.int64)
        of_rest: list[int] = []
        for claim in settled.spanless:
            pod = None
            if claim.entity != NOBODY:
                pod = Pod.of_owner(self._registry.entities.value(claim.entity).owner)
                if pod is None:
                    own = claim.device
                    pod = of_group(claim.group) if own is None else self._of((own,))
            of_rest.append(place(pod))
        return pods, np.concatenate([of_roots[inverse], np.array(of_rest, np.int64)])

    def _of(self, devices: tuple[int, ...]) -> Pod | None:
        """The pod of a device group: one that holds all of it."""
        found = {self._holder_of(self._registry.devices.value(key).device) for key in devices}
        return found.pop() if len(found) == 1 else None
