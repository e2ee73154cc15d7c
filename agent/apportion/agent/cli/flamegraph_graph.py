"""A flame graph in each of the forms in which it is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from apportion.agent.cli.flamegraph_output import FOLDED, least_share
from apportion.profiles.flame_frames import FlameTree
from apportion.profiles.flame_page import flame_page
from apportion.profiles.flame_svg import flame_svg
from apportion.profiles.flame_tree import flame_tree
from apportion.profiles.folded_text import folded_lines
from apportion.profiles.pprof import pprof
from apportion.profiles.py_spy import PROCESS
from apportion.profiles.py_spy_events import AT, SEEN
from apportion.profiles.speedscope import speedscope_json
from apportion.profiles.stacks import Stacks


@dataclass(frozen=True, slots=True)
class Graph:
    """What is to be written. row: the weight that is the width."""

    stacks: Stacks
    row: int
    title: str
    min_width_px: float | None
    is_difference: bool = False

    def written(self, form: str) -> bytes:
        """In a form of `flamegraph_output.checked_out`."""
        return _FORMS[form](self)

    @property
    def amount(self) -> str:
        """What the root weighs, as a person reads it."""
        return self.stacks.weights[self.row].text(self.stacks.total(self.row))

    def svg(self) -> bytes:
        """The picture."""
        tree = self._tree(".svg")
        return flame_svg(tree, self.title, is_difference=self.is_difference).encode()

    def page(self) -> bytes:
        """The page that searches and zooms."""
        tree = self._tree(".html")
        return flame_page(tree, self.title, is_difference=self.is_difference).encode()

    def folded(self) -> bytes:
        """Folded text of the weight that is the width; it has no room for labels."""
        plain = self.stacks.without(*self.stacks.labels)
        return "".join(folded_lines(plain.merged(), self.row)).encode()

    def speedscope(self) -> bytes:
        """speedscope's JSON, with every weight."""
        return speedscope_json(self.stacks.merged(), self.title)

    def pprof(self) -> bytes:
        """pprof's protobuf, with every weight; samples of the same ids are one."""
        return pprof(self.stacks.without(AT, SEEN, PROCESS).merged(), self.row)

    def _tree(self, form: str) -> FlameTree:
        return flame_tree(self.stacks, self.row, least_share(form, self.min_width_px))


_FORMS: Final[dict[str, Callable[[Graph], bytes]]] = {
    ".svg": Graph.svg,
    ".html": Graph.page,
    FOLDED: Graph.folded,
    ".json": Graph.speedscope,
    ".pb.gz": Graph.pprof,
}
