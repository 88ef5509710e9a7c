"""Fit every voxel of an image, in chunks."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from mrsim._check import check_positive, require
from mrsim.fit.parts import load, save
from mrsim.fit.result import Fit
from mrsim.tree import smooth, tree_flatten, tree_map, tree_unflatten

_CHUNK = 2**15  # voxels


def maps(
    fit: Callable[..., Fit],
    data: Tensor,
    start: Any,
    *args: Any,
    mask: Tensor | None = None,
    chunk: int = _CHUNK,
    progress: bool = False,
    folder: str | Path | None = None,
) -> Fit:
    """Fit every voxel of an image.

    Voxels that cannot be fitted are NaN in the maps and not ``converged``; none spoils
    another, and none raises.

    Args:
        fit: from `levenberg_marquardt`, `variable_projection` or `from_starts`.
        data: (..., sample) the image.
        start: the record to start from. A leaf is for all voxels as it is, or begins
            with the image's axes (...): a map, such as B1 or df that are known.
        *args: as of fit, the same in all voxels.
        mask: (...) bool, where to fit; everywhere if ``None``.
        chunk: voxels fitted at once, which bounds the memory.
        progress: show a progress bar (needs tqdm, extra ``demo``).
        folder: where each finished chunk is kept at once; a later call for the same
            data and start goes on from there.

    Returns:
        The fit, every leaf (..., …); outside the mask NaN, False or 0.

    Raises:
        ValueError: the mask is not of the image's shape or empty, chunk is not
            positive, or the folder holds parts of another fit.

    >>> import mrsim, torch
    >>> from mrsim import fit
    >>> decay = lambda tissue, t: tissue.M0 * (-t / tissue.T2).exp()
    >>> t, T2 = torch.tensor([0.01, 0.05, 0.1]), torch.tensor([[0.05, 0.08]])
    >>> image, start = (-t / T2[..., None]).exp(), mrsim.Tissue(T1=1.0, T2=0.06)
    >>> fit.maps(fit.variable_projection(decay, "T2"), image, start, t).params.T2
    tensor([[0.0500, 0.0800]])
    """
    check_positive("fit.maps", chunk=chunk)
    grid = data.shape[:-1]
    if mask is not None and mask.shape != grid:
        raise ValueError(
            f"fit.maps: mask must have the image's shape {tuple(grid)}, got"
            f" {tuple(mask.shape)}"
        )
    inside = (data.new_ones(grid) if mask is None else mask).reshape(-1).nonzero()[:, 0]
    flat = data.reshape(-1, data.shape[-1])
    leaves, structure = tree_flatten(start)
    moved = [_is_map(v, grid) for v in leaves]
    voxels = [
        v.reshape(-1, *v.shape[len(grid) :]) if m else v
        for v, m in zip(leaves, moved, strict=True)
    ]
    axes = (0, 0, *(None,) * len(args))

    def run(at: Tensor) -> Fit:
        pairs = zip(voxels, moved, strict=True)
        some = [v[at] if m else v.expand(len(at), *v.shape) for v, m in pairs]
        begin = tree_unflatten([v.contiguous() for v in some], structure)
        path = folder and Path(folder) / f"part-{int(at[0]):010d}.pt"
        return _kept(path, (flat[at], begin), lambda y, s: vmap(fit, axes)(y, s, *args))

    bar = require("tqdm", "demo").tqdm if progress else _plain
    pieces = [run(at) for at in bar(inside.split(chunk)) if len(at)]
    if not pieces:
        raise ValueError("fit.maps: the mask is empty; mark the voxels to fit")

    def spread(*parts: Tensor) -> Tensor:
        values = torch.cat(parts)
        blank = float("nan") if smooth(values) else 0
        whole = values.new_full((len(flat), *values.shape[1:]), blank)
        return whole.index_copy(0, inside, values).reshape((*grid, *values.shape[1:]))

    return tree_map(spread, *pieces)


def _is_map(leaf: Any, grid: torch.Size) -> bool:
    return bool(grid) and leaf.shape[: len(grid)] == grid


def _plain(items: Iterable[Tensor]) -> Iterable[Tensor]:
    return items


def _kept(path: Any, given: tuple[Tensor, Any], run: Callable[..., Fit]) -> Fit:
    """Return what a file holds of a chunk, or run it and write the file."""
    if path is None:
        return run(*given)
    found = load(path, given)
    if found is None:
        found = run(*given)
        save(path, given, found)
    return found
