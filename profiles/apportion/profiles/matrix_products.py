"""Floating point operations of a run, from the shapes that torch.profiler recorded.

PyTorch writes its own estimates (`with_flops`) into its tables and not into the trace, so they
are counted again here, by the same formula: a product of an m x k and a k x n matrix takes 2mkn.
"""

from __future__ import annotations

from typing import Final, cast

COUNTED: Final = {"aten::mm": 0, "aten::bmm": 0, "aten::addmm": 1, "aten::baddbmm": 1}
"""Operators whose two factors begin at this input."""
UNCOUNTED: Final = frozenset(
    {
        "aten::convolution",
        "aten::convolution_backward",
        "aten::_scaled_mm",
        "aten::_grouped_mm",
        "aten::_scaled_dot_product_flash_attention",
        "aten::_scaled_dot_product_flash_attention_backward",
        "aten::_scaled_dot_product_efficient_attention",
        "aten::_scaled_dot_product_efficient_attention_backward",
        "aten::_scaled_dot_product_cudnn_attention",
        "aten::_scaled_dot_product_cudnn_attention_backward",
        "aten::_flash_attention_forward",
        "aten::_flash_attention_backward",
    }
)
"""Operators that multiply much and are not counted: their presence makes a sum a lower bound."""


def product_flop(operator: str, input_dims: object) -> int | None:
    """Operations of one call of a counted operator; None where its shapes do not say it."""
    first = COUNTED[operator]
    if not isinstance(input_dims, list):
        return None
    shapes = [_shape(dims) for dims in cast("list[object]", input_dims)[first : first + 2]]
    if len(shapes) != 2:
        return None
    left, right = shapes
    if len(left) not in {2, 3} or len(right) != len(left) or left[-1] != right[-2]:
        return None
    batch = left[0] if len(left) == 3 else 1
    return 2 * batch * left[-2] * left[-1] * right[-1]


def _shape(dims: object) -> tuple[int, ...]:
    """Empty where it is not a list of whole numbers from 0."""
    if not isinstance(dims, list):
        return ()
    items = cast("list[object]", dims)
    sizes = tuple(size for size in items if isinstance(size, int) and size >= 0)
    return sizes if len(sizes) == len(items) else ()
