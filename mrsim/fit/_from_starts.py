"""Fit from several starts and keep the best."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from mrsim.fit.result import Fit
from mrsim.tree import tree_map


def from_starts(fit: Callable[..., Fit]) -> Callable[..., Fit]:
    """Make a function that fits from several starts and returns the best fit.

    All starts go to the driver in one batch. The least cost wins, and among equals the
    first.

    Args:
        fit: from `levenberg_marquardt` or `variable_projection`.

    Returns:
        A function ``(data, starts, *args)`` → `Fit`, for use under vmap: every leaf of
        starts has a first axis of starts more, as from ``mrsim.grid``.

    >>> import mrsim, torch
    >>> from mrsim import fit
    >>> wave = lambda tissue, t: (2 * torch.pi * tissue.df * t).cos()
    >>> t = torch.linspace(0, 1, 20)
    >>> starts = mrsim.grid(mrsim.Tissue(T1=1.0, T2=0.1), df=[1.0, 3.0, 5.0, 7.0])
    >>> data = (2 * torch.pi * 5.3 * t).cos()
    >>> fit.from_starts(fit.levenberg_marquardt(wave, "df"))(data, starts, t).params.df
    tensor(5.3000)
    """

    def best(data: Tensor, starts: Any, *args: Any) -> Fit:
        axes = (None, 0, *(None,) * len(args))
        found = vmap(fit, in_dims=axes)(data, starts, *args)
        first = torch.where(found.cost.isnan(), torch.inf, found.cost).argmin()
        return tree_map(lambda v: v.index_select(0, first.reshape(1))[0], found)

    return best
