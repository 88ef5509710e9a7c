"""The signal of a train in every voxel of an image."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.func import vmap

from mrsim._batched import batched
from mrsim.tree import tree_leaves, tree_map


def echoes(
    f: Callable[..., Tensor], maps: Any, *args: Any, memory: int | None = None
) -> Tensor:
    """Simulate a train in every voxel of an image.

    Args:
        f: the signal of one voxel, ``f(tissue, *args)`` → (echo,), such as ``epg.fse``.
        maps: the record of one voxel, its leaves (x, y) maps, or () for all voxels;
            fields such as B1 and df are maps of the fields.
        *args: the same for all voxels: the train.
        memory: bytes that one chunk of voxels may allocate, see `mrsim.batched`; all
            voxels at once if ``None``.

    Returns:
        (x, y, echo) signal [units of M0].

    Raises:
        ValueError: no leaf is a map, or one is neither a map nor a number.

    >>> import mrsim, torch
    >>> from mrsim import image
    >>> decay = lambda tissue, t: tissue.M0 * (-t / tissue.T2).exp()
    >>> maps = mrsim.Tissue(T1=1.0, T2=0.1, M0=torch.ones(4, 4))
    >>> image.echoes(decay, maps, torch.tensor([0.0, 0.1])).shape
    torch.Size([4, 4, 2])
    """
    shapes = {tuple(v.shape) for v in tree_leaves(maps)}
    grid = max(shapes, key=len, default=())
    if len(grid) < 2 or shapes - {grid, ()}:
        raise ValueError(
            f"image.echoes: at least one field must be an (x, y) map, such as M0"
            f" expanded to the image, and others such maps or numbers, got"
            f" {sorted(shapes)}"
        )

    def flat(v: Tensor) -> Tensor:
        return v.expand(grid).reshape(-1)

    axes = (0, *(None,) * len(args))
    every = vmap(f, axes) if memory is None else batched(f, axes, memory)
    made = every(tree_map(flat, maps), *args)
    return made.reshape(*grid, made.shape[-1])
