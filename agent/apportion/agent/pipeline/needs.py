"""What requests need of their devices: from their tokens and facts about model and device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from apportion.agent.pipeline.interned import EntityKey
from apportion.core.category import Category
from apportion.core.device_facts import DeviceFacts
from apportion.cost.methods.model_catalogue import named_model
from apportion.cost.methods.names import Method
from apportion.cost.methods.occupancy import needs, own_rate, prefill_starts
from apportion.cost.methods.roofline import Roofline

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from apportion.agent.pipeline.registry import Registry
    from apportion.cost.methods.model_facts import ModelFacts
    from apportion.cost.settlement.work import Roots

    Column = NDArray[np.int64]


class RequestNeeds:
    """Chooses each root's method, and tells what its requests need.

    `models` are the facts of models that the built-in list does not know, or knows otherwise, by
    the name that requests carry.
    """

    def __init__(self, registry: Registry, models: Mapping[str, ModelFacts]) -> None:
        self._registry = registry
        self._models = models
        self._rooflines: dict[tuple[int, int], Roofline | None] = {}

    def tell(self, roots: Roots) -> None:
        """Fill in `method`, `begun_ns` and the needs of `roots`, which the caller owns.

        Prefills in an engine of a device group are served in turn. A request that runs, or was
        settled while it ran, has no tokens to go by and needs nothing.
        """
        direct = (roots["number"] > 0) & (roots["category"] == int(Category.DIRECT))
        steps = direct & roots["step"]
        roots["method"] = np.where(steps, int(Method.STEP_EXCLUSIVE), int(Method.TIME_SHARE))
        roots["prefill_own"], roots["decode_own"] = 0, 0
        roots["begun_ns"] = np.where(roots["open"], roots["begun_ns"], roots["start_ns"])
        requests = np.flatnonzero(direct & ~steps)
        engines = roots["group"][requests].astype(np.int64) << 32 | roots["entity"][requests]
        pairs, which = np.unique(engines, return_inverse=True)
        by_need: dict[tuple[int, Roofline], list[int]] = {}
        for index, pair in enumerate(pairs.tolist()):
            group, entity = pair >> 32, pair & 0xFFFFFFFF
            roofline = self.roofline(group, entity)
            if roofline is not None:
                by_need.setdefault((group, roofline), []).append(index)
        by_group: dict[int, list[Column]] = {}
        for (group, roofline), chosen in by_need.items():
            mine = requests[np.isin(which, chosen)]
            roots["method"][mine] = int(Method.ROOFLINE_WINDOWS)
            known = mine[~roots["open"][mine] & ~roots["held"][mine]]
            _fill(roots, known, roofline)
            by_group.setdefault(group, []).append(known)
        for served in by_group.values():
            places = np.concatenate(served)
            engines = roots["engine"][places]
            for engine in np.unique(engines).tolist():
                _serve_in_turn(roots, places[engines == engine])

    def roofline(self, group: int, entity: int) -> Roofline | None:
        """Of an entity's model on a device group; None where facts are missing."""
        key = (group, entity)
        if key not in self._rooflines:
            self._rooflines[key] = self._found(group, entity)
        return self._rooflines[key]

    def _found(self, group: int, entity: int) -> Roofline | None:
        who = self._registry.entities.value(entity) if entity else EntityKey()
        model_name = who.base_model or who.model
        if model_name is None:
            return None
        model = self._models.get(model_name) or named_model(model_name)
        members = self._registry.groups.value(group)
        devices = [
            DeviceFacts.named(self._registry.devices.value(device).name) for device in members
        ]
        known = [device for device in devices if device is not None]
        if model is None or len(known) < len(devices):
            return None
        return Roofline.of(model, *known)


def _fill(roots: Roots, known: Column, roofline: Roofline) -> None:
    """Needs in nanoseconds; `_serve_in_turn` spreads them over their windows."""
    rows = roots[known]
    cached = np.minimum(rows["cached_input_tokens"], rows["input_tokens"])
    prefill_s, decode_s = needs(roofline, rows["input_tokens"], cached, rows["output_tokens"])
    roots["prefill_own"][known] = np.rint(prefill_s * 1e9).astype(np.int64)
    roots["decode_own"][known] = np.rint(decode_s * 1e9).astype(np.int64)


def _serve_in_turn(roots: Roots, known: Column) -> None:
    told = roots["first_token_ns"][known] > 0
    _serve_whole(roots, known[~told])
    known = known[told]
    rows = roots[known]
    start_ns, end_ns = rows["start_ns"], rows["end_ns"]
    token_ns = np.clip(rows["first_token_ns"], start_ns, end_ns)
    begun_ns = prefill_starts(start_ns, token_ns, rows["prefill_own"])
    roots["begun_ns"][known] = begun_ns
    roots["prefill_own"][known] = own_rate(rows["prefill_own"] / 1e9, token_ns - begun_ns)
    roots["decode_own"][known] = own_rate(rows["decode_own"] / 1e9, end_ns - token_ns)


def _serve_whole(roots: Roots, known: Column) -> None:
    """Requests without a first token: nothing says when which part ran, so it ran all the time."""
    rows = roots[known]
    need_s = (rows["prefill_own"] + rows["decode_own"]) / 1e9
    roots["prefill_own"][known] = own_rate(need_s, rows["end_ns"] - rows["start_ns"])
    roots["decode_own"][known] = 0
