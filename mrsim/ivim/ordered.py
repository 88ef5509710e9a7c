"""Diffusivities in ascending order, by parametrisation where their bounds overlap.

Dp = max(D, lower) + t (upper − max(D, lower)) with 0 ≤ t ≤ 1: bounds hold exactly and
labels cannot swap. While a fit runs, the record's field holds t.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from mrsim.ivim._limits import Box
from mrsim.tree import get, put

_ASCENDING = (("D", "Dp"), ("D0", "D1", "D2"))


def chain(box: Box) -> tuple[str, ...]:
    """Return the unknowns that need an order, slowest first; none if bounds order them.

    Args:
        box: name → (lower, upper) of the unknowns.

    Returns:
        Names; every one but the first is replaced by its t.

    Raises:
        ValueError: an upper bound lies below that of a slower diffusivity.
    """
    for names in _ASCENDING:
        present = tuple(n for n in names if n in box)
        pairs = list(pairwise(present))
        if any(box[slow][1] > box[fast][1] for slow, fast in pairs):
            raise ValueError(
                f"ivim: the upper bounds of {', '.join(present)} must ascend in this"
                f" order, got {[box[n][1] for n in present]}"
            )
        if any(box[slow][1] > box[fast][0] for slow, fast in pairs):
            return present
    return ()


def inner(box: Box, names: tuple[str, ...]) -> Box:
    """Return the bounds of what the record's fields hold during a fit."""
    return {n: (0.0, 1.0) if n in names[1:] else pair for n, pair in box.items()}


def to_inner(params: Any, box: Box, names: tuple[str, ...]) -> Any:
    """Replace ordered diffusivities by their t."""
    out = params
    for slow, fast in pairwise(names):
        low, width = _room(get(params, slow), box[fast])
        safe = torch.where(width > 0, width, 1.0)
        out = put(out, fast, ((get(params, fast) - low) / safe).clamp(0, 1))
    return out


def to_outer(params: Any, box: Box, names: tuple[str, ...]) -> Any:
    """Replace every t by the diffusivity that it stands for."""
    for slow, fast in pairwise(names):
        low, width = _room(get(params, slow), box[fast])
        params = put(params, fast, low + get(params, fast) * width)
    return params


def _room(slow: Tensor, pair: tuple[float, float]) -> tuple[Tensor, Tensor]:
    low = slow.clamp_min(pair[0])
    return low, pair[1] - low
