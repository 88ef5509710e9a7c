"""A few weighted tissues that stand for the maps of an image."""

from typing import TypeVar

import torch
from torch import Tensor

from mrsim.tree import get, names as field_names, put, tree_map

R = TypeVar("R")

_MOST = 100_000  # voxels that are looked at
_ROUNDS = 50


def tissues(maps: R, count: int, mask: Tensor | None = None) -> tuple[R, Tensor]:
    """Sum up parameter maps by a few tissues and how common they are.

    Clusters (k-means) of the logarithms of all fields that are positive maps, each
    divided by its standard deviation; a tissue is the mean of its cluster. The same
    maps give the same tissues.

    Args:
        maps: a record whose leaves are maps (...) of one shape, or () for all voxels.
        count: how many tissues, at most as many as voxels.
        mask: (...) bool, the voxels to look at; by default those where all maps are
            finite and positive.

    Returns:
        The tissues, each leaf (tissue,), and their shares of the voxels, (tissue,).

    Raises:
        ValueError: no leaf is a map, or no voxel is left.

    Reference:
        Lloyd 1982, IEEE Trans Inf Theory 28:129.

    >>> import mrsim, torch
    >>> from mrsim import design
    >>> T2 = torch.tensor([0.07, 0.07, 0.1, 0.07])
    >>> found, share = design.tissues(mrsim.Tissue(T1=1.0, T2=T2), 2)
    >>> found.T2, share
    (tensor([0.0700, 0.1000]), tensor([0.7500, 0.2500]))
    """
    present = [n for n in field_names(maps) if isinstance(get(maps, n), Tensor)]
    moving = [n for n in present if get(maps, n).ndim]
    if not moving:
        raise ValueError("design.tissues: no field of the record is a map")
    stack = torch.stack([get(maps, n).reshape(-1) for n in moving], 1)
    good = (stack.isfinite() & (stack > 0)).all(1)
    if mask is not None:
        good = good & mask.reshape(-1)
    values = stack[good]
    if not len(values):
        raise ValueError("design.tissues: no voxel of the mask has positive maps")
    values = values[:: -(-len(values) // _MOST)].log()
    spread = values.std(0, correction=0)
    scaled = (values - values.mean(0)) / torch.where(spread > 0, spread, 1.0)
    which = _clusters(scaled, min(count, len(values)))
    groups = torch.nn.functional.one_hot(which).to(values)
    sizes = groups.sum(0)
    centres = ((groups.mT @ values) / sizes.unsqueeze(-1)).exp()
    order = centres[:, -1].argsort()
    made = tree_map(lambda v: v.expand(len(order)) if not v.ndim else v, maps)
    for name, column in zip(moving, centres[order].unbind(1), strict=True):
        made = put(made, name, column.contiguous())
    return made, (sizes / sizes.sum())[order]


def _clusters(x: Tensor, count: int) -> Tensor:
    """Return the cluster of each row: k-means from far-apart starts, none empty."""
    centres = x[:1] * 0
    nearest = (x - centres).square().sum(1)
    picked = []
    for _ in range(count):  # farthest first, which needs no random numbers
        picked.append(int(nearest.argmax()))
        away = (x - x[picked[-1]]).square().sum(1)
        nearest = torch.minimum(nearest, away)
    centres = x[picked].unique(dim=0)
    which = torch.cdist(x, centres).argmin(1)
    for _ in range(_ROUNDS):
        groups = torch.nn.functional.one_hot(which, len(centres)).to(x)
        sizes = groups.sum(0).unsqueeze(-1)
        means = (groups.mT @ x) / sizes.clamp_min(1)
        centres = torch.where(sizes > 0, means, centres)
        moved = torch.cdist(x, centres).argmin(1)
        if torch.equal(moved, which):
            break
        which = moved
    return which.unique(return_inverse=True)[1]
