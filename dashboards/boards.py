"""The seven dashboards, in the order of their page."""

from __future__ import annotations

from typing import Final

from dashboards import agent, devices, efficiency, inference, network, overview, training
from dashboards.panel import Board

BOARDS: Final[tuple[Board, ...]] = (
    overview.BOARD,
    inference.BOARD,
    training.BOARD,
    devices.BOARD,
    network.BOARD,
    efficiency.BOARD,
    agent.BOARD,
)
