"""Voxels of an image in chunks, and what is found back in the image's shape."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from mrsim._check import require
from mrsim.tree import tree_map

Known = Mapping[str, float | Tensor]
"""Name → a value that is known before a fit, a number or a map (...)."""


def over_voxels(
    run: Callable[[Tensor, dict[str, Tensor]], Any],
    data: Tensor,
    size: int,
    progress: bool = False,
    known: Mapping[str, Tensor] | None = None,
) -> Any:
    """Run a function of some voxels over all voxels of an image, chunk by chunk.

    Args:
        run: (voxel, sample) data and known values (voxel,) → a tree whose leaves have
            the voxel axis first.
        data: (..., sample).
        size: most voxels in a chunk.
        progress: show a progress bar.
        known: name → (), or (voxel,).

    Returns:
        The tree, every leaf (..., …).
    """
    flat = data.reshape(-1, data.shape[-1])
    pieces = []
    for first in bar(range(0, len(flat), size), progress):
        at = slice(first, first + size)
        pieces.append(run(flat[at], chosen(known or {}, at, len(flat[at]))))

    def join(*parts: Tensor) -> Tensor:
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return whole.reshape((*data.shape[:-1], *whole.shape[1:]))

    return tree_map(join, *pieces)


def chosen(
    known: Mapping[str, Tensor], at: slice | Tensor, count: int
) -> dict[str, Tensor]:
    """Return known values () or (voxel,) at some voxels, each (count,)."""
    return {n: x[at] if x.ndim else x.expand(count) for n, x in known.items()}


def bar(items: range, progress: bool) -> Iterable[int]:
    """Return the items, with a progress bar if wanted."""
    return require("tqdm", "demo").tqdm(items) if progress else items


def as_map(where: str, name: str, value: float | Tensor, data: Tensor) -> Tensor:
    """Return a number as (), or a map of the data's voxels as (voxel,).

    Args:
        where: the function that asks, for messages.
        name: of the quantity.
        value: a number or (...).
        data: (..., sample).

    Returns:
        The tensor, like data.

    Raises:
        ValueError: the map's shape is not that of the voxels.
    """
    x = torch.as_tensor(value, dtype=data.dtype, device=data.device)
    if x.ndim and x.shape != data.shape[:-1]:
        raise ValueError(
            f"ivim.{where}: {name} must be a number or a map of shape"
            f" {tuple(data.shape[:-1])}, got {tuple(x.shape)}"
        )
    return x.reshape(-1) if x.ndim else x
