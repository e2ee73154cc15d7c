"""A loop of PyTorch that nobody edited for `apportion run`: it trains until a file is there.

loop.py FILE
"""

# pyright: reportUnknownMemberType=false
# PyTorch's own annotations leave much unknown.

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

END = Path(sys.argv[1])
model = torch.nn.Linear(16, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
while not END.exists():
    model(torch.ones(2, 16)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    time.sleep(0.005)  # or a ring would be full in seconds
