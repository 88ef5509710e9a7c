"""The vmap rule of a Function that works on one mesh at a time."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def looped(
    f: Callable[..., Any], size: int, dims: Sequence[Any], inputs: Sequence[Tensor]
) -> list[Any]:
    """Return what a function makes of every item of a batch.

    Args:
        f: of as many tensors.
        size: of the batch.
        dims: the axis of each input that is mapped; ``None``: shared by all.
        inputs: tensors.

    Returns:
        One result for each item.
    """
    pairs = list(zip(inputs, dims, strict=True))
    return [
        f(*(x if d is None else x.select(d, k) for x, d in pairs)) for k in range(size)
    ]


def stacked(
    f: Callable[..., Tensor], size: int, dims: Sequence[Any], inputs: Sequence[Tensor]
) -> tuple[Tensor, int]:
    """Return what `looped` gives, one below the other, and the new axis: 0."""
    return torch.stack(looped(f, size, dims, inputs)), 0
