"""What training a token takes, by the parameters of a model: their shapes, never their values."""

from __future__ import annotations

from typing import Any, Final

from apportion.client.counting import count
from apportion.client.identity import FLOPS_PER_PARAMETER

FROZEN_FLOPS_PER_PARAMETER: Final = 4
"""Of a parameter that is not trained: its own gradient is left out, that of its input is not."""
_EXPERTS: Final = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""How Hugging Face's configurations say that a token passes only a part of the model."""


def flops_per_token(model: Any) -> int | None:
    """Operations of training a token; None where the parameters do not say. Never raises.

    A table of embeddings is looked up, and takes none unless the model's end shares it. Of a
    mixture of experts, a quantised model, and one that is in parts already nobody knows how much
    a token of this rank passes.
    """
    try:
        return _flops_per_token(model)
    except Exception:  # noqa: BLE001 - an observer never raises into the workload
        count("internal_error")
        return None


def _flops_per_token(model: Any) -> int | None:
    if _has_experts(getattr(model, "config", None)):
        return None
    passed: dict[int, Any] = {}
    for module in model.modules():
        if hasattr(module, "_fsdp_wrapped_module"):
            return None
        if not hasattr(module, "num_embeddings"):
            passed.update((id(each), each) for each in module.parameters(recurse=False))
    flops = 0
    for parameter in passed.values():
        if not parameter.is_floating_point() or hasattr(parameter, "device_mesh"):
            return None
        # In the place of a parameter DeepSpeed leaves nothing but how many numbers it has.
        numbers = int(getattr(parameter, "ds_numel", parameter.numel()))
        trained = parameter.requires_grad
        flops += numbers * (FLOPS_PER_PARAMETER if trained else FROZEN_FLOPS_PER_PARAMETER)
    return flops or None


def _has_experts(config: Any) -> bool:
    """Whether a configuration, or that of its text model, has experts."""
    return any(
        getattr(each, name, None)
        for each in (config, getattr(config, "text_config", None))
        for name in _EXPERTS
    )
