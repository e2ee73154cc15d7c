"""How long a forward pass takes, from what it computes and what it must read.

An iteration of a batch takes a launch, the linear layers g(N) = max(alpha N, beta) of its N new
tokens, and each request's own attention: the greater of its arithmetic and of reading its keys
and values. Absolute times matter little here, because methods scale them to the measured time;
their proportions are what requests share by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from apportion.core.device_facts import DeviceFacts
    from apportion.cost.methods.model_facts import ModelFacts

Floats = NDArray[np.float64]

FLOP_EFFICIENCY: Final = 0.62
BANDWIDTH_EFFICIENCY: Final = 0.80
"""Of the data sheet's figures, what large matrix products and streams reach on an H100."""
LAUNCH_S: Final = 0.0004


@dataclass(frozen=True, slots=True)
class Roofline:
    """One model on one device, or on several that work as one with summed rates.

    alpha_s: arithmetic of one token in the linear layers, seconds.
    beta_s: reading the weights once (of experts: see `linear_s`), seconds.
    attention_s: arithmetic of one (new token, known token) pair in all layers, seconds.
    kv_s: reading one token's keys and values in all layers, seconds.
    launch_s: what an iteration costs whatever is in it, seconds.
    expert_beta_s: reading every expert's weights; `expert_share` of them, k / E, meet a token.
    """

    alpha_s: float
    beta_s: float
    attention_s: float
    kv_s: float
    launch_s: float = LAUNCH_S
    expert_beta_s: float = 0.0
    expert_share: float = 0.0

    @classmethod
    def of(
        cls,
        model: ModelFacts,
        *devices: DeviceFacts,
        flop_efficiency: float = FLOP_EFFICIENCY,
        bandwidth_efficiency: float = BANDWIDTH_EFFICIENCY,
        launch_s: float = LAUNCH_S,
    ) -> Roofline:
        """`model` on `devices` that work as one: their rates are summed."""
        peaks = [device.flop_per_s_of(model.bytes_per_parameter) for device in devices]
        flop_per_s = sum(peaks) * flop_efficiency
        bytes_per_s = sum(device.bytes_per_s for device in devices) * bandwidth_efficiency
        routed = model.experts * model.expert_parameters
        read = model.bytes_per_parameter / bytes_per_s
        width = model.attention_heads * model.head_size
        return cls(
            alpha_s=2 * model.active_parameters / flop_per_s,
            beta_s=(model.total_parameters - routed) * read,
            attention_s=4 * model.layers * width / flop_per_s,
            kv_s=model.kv_bytes_per_token / bytes_per_s,
            launch_s=launch_s,
            expert_beta_s=routed * read,
            expert_share=model.experts_per_token / model.experts if model.experts else 0.0,
        )

    def weights_s(self, tokens: Floats) -> Floats:
        """Reading the weights that `tokens` new tokens need, shape n."""
        return self.beta_s + self.experts_s(tokens)

    def experts_s(self, tokens: Floats) -> Floats:
        """Of that, reading the experts that any of the tokens meets."""
        met: Floats = 1 - (1 - self.expert_share) ** tokens
        return self.expert_beta_s * met

    def linear_s(self, tokens: Floats) -> Floats:
        """g(N): the linear layers of `tokens` new tokens, shape n."""
        return np.maximum(self.alpha_s * tokens, self.weights_s(tokens))

    def own_s(self, new: Floats, context: Floats) -> Floats:
        """Attention of `new` tokens after `context` known ones, shape n: nobody else shares it."""
        pairs = new * context + new * (new + 1) / 2
        return np.maximum(self.attention_s * pairs, self.kv_s * (context + new))

    def iteration_s(self, new: Floats, context: Floats) -> float:
        """An iteration of a batch: shapes m, one entry a request."""
        if not new.size:
            return 0.0
        linear_s = float(self.linear_s(np.array([new.sum()]))[0])
        return self.launch_s + linear_s + float(self.own_s(new, context).sum())
