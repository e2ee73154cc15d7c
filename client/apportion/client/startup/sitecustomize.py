"""What `apportion run` has Python import at its start: PyTorch gets its hooks when it is imported.

Python imports the first `sitecustomize` on its path. This one takes its folder off the path and
runs the one that would have been first without it. A Python that never imports torch does no more.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec


class _AtTorch:
    """A finder that finds nothing: it begins to measure when torch is looked for."""

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        """None, always."""
        if name == "torch" and self in sys.meta_path:
            sys.meta_path.remove(self)
            _measure()
        return None


def _measure() -> None:
    try:
        from apportion import client  # noqa: PLC0415 - most Pythons under a launcher need none
    except ImportError as error:
        sys.stderr.write(
            f"apportion run: {sys.executable} cannot import it ({error}), so nothing is measured: "
            "install apportion there\n"
        )
    else:
        client.torch_steps()


def _run_the_next() -> None:
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib is slow to import
    sys.path[:] = [each for each in sys.path if os.path.abspath(each) != here]  # noqa: PTH100
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


sys.meta_path.insert(0, _AtTorch())
_run_the_next()
