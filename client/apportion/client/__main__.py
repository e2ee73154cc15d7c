"""`python -m apportion.client`: why nothing arrives from this environment."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Mapping

from apportion.client.counting import counts
from apportion.client.selftest import diagnose
from apportion.client.vllm.installed import findings


def main(environ: Mapping[str, str]) -> int:
    """Print what was found; 0 where spans of this environment reach an agent, else 1."""
    good = True
    for finding in itertools.chain(diagnose(environ), findings(environ)):
        print("ok  " if finding.good else "FAIL", finding.text)
        good = good and finding.good
    for reason, times in sorted(counts().items()):
        print(f"FAIL {reason}: {times}")
        good = False
    print("spans from here arrive" if good else "spans from here do not arrive")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(os.environ))
