"""Do something once the program has imported a module: nothing is imported before it is wanted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

from apportion.client.counting import count


def when_imported(name: str, act: Callable[[], object]) -> None:
    """Call `act` as soon as the module has run: now, if it has. It may not raise."""
    if name in sys.modules and not _is_running(sys.modules[name]):
        act()
    else:
        sys.meta_path.insert(0, _Watch(name, act))


def _is_running(module: ModuleType) -> bool:
    """Whether the module is being imported at this moment."""
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


class _Watch:
    """A finder that finds nothing by itself: it has the others' loader say when it is done."""

    def __init__(self, name: str, act: Callable[[], object]) -> None:
        self._name = name
        self._act = act

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the finders behind this one find; None for every other module."""
        if name != self._name:
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    wrapped: Any = _Loader(spec.loader, self._done)
                    spec.loader = wrapped
                return spec
        return None

    def _done(self) -> None:
        if self in sys.meta_path:  # else it was imported in two threads
            sys.meta_path.remove(self)
            self._act()


class _Loader:
    """Another loader, with something to do behind it. Whatever else is asked is the other's."""

    def __init__(self, loader: Any, done: Callable[[], None]) -> None:
        self._loader: Final = loader
        self._done: Final = done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the other loader does."""
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, give its own loader back to it, then act."""
        spec = module.__spec__
        if spec is not None:
            spec.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        try:
            self._done()
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("internal_error")
