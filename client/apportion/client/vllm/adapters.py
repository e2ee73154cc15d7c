"""The LoRA adapters that vLLM's server has loaded, by the names that callers ask for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

_NONE: Collection[str] = ()


def loaded_adapters(app: Any) -> Collection[str]:
    """Those of a server's application now: they can be loaded and unloaded while it runs.

    vLLM keeps them with its application, which is no stable interface: where they are not found
    there are none.
    """
    models: Any = getattr(getattr(app, "state", None), "openai_serving_models", None)
    found: object = getattr(models, "lora_requests", None)
    return cast("Mapping[str, object]", found) if isinstance(found, Mapping) else _NONE
