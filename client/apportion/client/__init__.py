"""What runs inside a trainer or a server, and says what it does to the agent beside it.

    from apportion import client

    client.init(workload="llama-pretrain")
    with client.step(number) as step:
        with step.phase("forward"):
            ...
        step.add(tokens=8192)

Standard library only. Nothing here raises into the program, waits, or prints; `python -m
apportion.client` says why nothing arrives.
"""

from __future__ import annotations

from apportion.client.counting import counts
from apportion.client.optimizer_steps import torch_steps
from apportion.client.phase import Phase
from apportion.client.serving import request
from apportion.client.session import init, member, ready, resumed
from apportion.client.span import Span, current_span
from apportion.client.training import checkpoint, evaluation, step

__all__ = [
    "Phase",
    "Span",
    "checkpoint",
    "counts",
    "current_span",
    "evaluation",
    "init",
    "member",
    "ready",
    "request",
    "resumed",
    "step",
    "torch_steps",
]
