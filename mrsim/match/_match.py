"""Match voxels to a dictionary."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mrsim import shard
from mrsim._check import require, warn
from mrsim.match._dictionary import Dictionary, coefs, compress
from mrsim.match.groups import Groups, groups, planes
from mrsim.match.search import Best, improved, nothing

_BLOCK = 2**17  # voxels searched at once


class Match(NamedTuple):
    """The best atoms of each voxel; NaN and -1 where there is none."""

    index: Tensor  # (…) or (…, top) of the atom
    score: Tensor  # |⟨atom, voxel⟩| / |atom||voxel|, in 0 … 1
    scale: Tensor  # complex ⟨atom, voxel⟩ / |atom|²: M0 for atoms of M0 = 1


def match(
    d: Dictionary,
    data: Tensor,
    mask: Tensor | None = None,
    top: int | None = None,
    store: shard.Store | None = None,
    size: int = 2**20,
    compressed: bool = False,
    progress: bool = False,
) -> Match:
    """Find the atom that is most alike each voxel, up to a complex scale.

    argmaxₐ |⟨a, v⟩|² / |a|², for voxels and atoms in the dictionary's basis. The atoms
    come in shards, and a running best is kept for each voxel, so memory does not grow
    with the dictionary. Within a shard, groups of alike atoms that cannot hold the best
    are left out by an exact bound (see `mrsim.match.groups`): little noise is fast.
    Groups are chosen in float32, atoms in double precision: the index is that of double
    arithmetic, and of atoms equal to rounding (1e-15) it may be either.

    Args:
        d: the dictionary.
        data: (…, sample) signals, real or complex; or coefficients, see ``compressed``.
        mask: (…) bool, which voxels to match; all by default.
        top: number of best atoms to return, on a last axis; ``None`` for one, without.
        store: what `build` made; without it, atoms are simulated as they are needed,
            and forgotten.
        size: atoms searched at once; with a store, as many of its shards.
        compressed: data are coefficients already, of `compress`.
        progress: show a progress bar (needs tqdm, extra ``demo``).

    Returns:
        Atoms, scores and scales. Voxels outside the mask, zero or with NaN have index
        -1 and NaN; a warning tells how many within the mask.

    Raises:
        ValueError: data or mask do not have the right shape, or top is not positive.
        TypeError: data are whole numbers.

    Reference:
        Ma 2013 (Nature 495:187); McGivney 2014 (IEEE TMI 33:2311); Cauley 2015 (MRM
        74:523) for groups.

    >>> import mrsim, torch
    >>> from mrsim import match
    >>> decay = lambda tissue, t: (-t / tissue.T2).exp()
    >>> atoms = match.grid(mrsim.Tissue(T1=1.0, T2=0.1), T2=[0.05, 0.1, 0.2])
    >>> d = match.dictionary(decay, atoms, torch.linspace(0.01, 0.2, 20))
    >>> data = 3 * match.coefs(d, torch.tensor([2, 0]))
    >>> found = match.match(d, data)
    >>> found.index, found.scale.real.round(decimals=3)
    (tensor([2, 0]), tensor([3., 3.]))
    """
    if top is not None and top < 1:
        raise ValueError(f"match: top must be at least 1, or None, got {top}")
    flat, here = _voxels(d, data, mask, compressed)
    norm = flat.abs().double().square().sum(1).sqrt()
    best = nothing(len(flat), top or 1, flat.real)
    step = store.size * max(1, size // store.size) if store else size
    count = d.atoms.count if len(flat) else 0
    for start in _bar(range(0, count, step), progress):
        stop = min(start + step, count)
        part = groups(_shard(d, store, start, stop).to(flat.device), start)
        if part is not None:
            best = _searched(d, best, flat, norm, part)
    found = _finished(best, norm, data)
    return Match(*(_spread(v, here, data.shape[:-1], top) for v in found))


def _voxels(
    d: Dictionary, data: Tensor, mask: Tensor | None, compressed: bool
) -> tuple[Tensor, Tensor]:
    """Return the coefficients (n, rank) of all voxels to match, and where."""
    shape = data.shape[:-1]
    if mask is not None and (mask.shape != shape or mask.dtype != torch.bool):
        raise ValueError(
            f"match: mask must be of bool and shape {tuple(shape)}, got {mask.dtype}"
            f" and {tuple(mask.shape)}"
        )
    if d.basis is None:
        wanted = coefs(d, torch.zeros(1, dtype=torch.long)).shape[1]
    else:
        wanted = d.basis.shape[1 if compressed else 0]
    if data.shape[-1] != wanted:
        raise ValueError(
            f"match: the last axis of data must have {wanted} samples, got"
            f" {data.shape[-1]}"
        )
    rows = data.reshape(-1, wanted)
    here = (
        torch.ones_like(rows[:, 0], dtype=torch.bool)
        if mask is None
        else mask.flatten()
    )
    energy = rows.abs().double().square().sum(1)
    usable = energy.isfinite() & (energy > 0)
    bad = int((here & ~usable).sum())
    if bad:
        warn(
            f"match: {bad} of {int(here.sum())} voxels are zero or not finite; their"
            f" index is -1"
        )
    here = (here & usable).nonzero()[:, 0]
    return rows[here] if compressed else compress(d, rows[here]), here


def _shard(d: Dictionary, store: shard.Store | None, start: int, stop: int) -> Tensor:
    if store is None:
        return coefs(d, torch.arange(start, stop))
    return shard.read(store, "coefs", start, stop)


def _searched(
    d: Dictionary, best: Best, flat: Tensor, norm: Tensor, part: Groups
) -> Best:
    """Search all voxels, block by block."""
    made = []
    for start in range(0, len(flat), _BLOCK):
        some = slice(start, start + _BLOCK)
        rows = (flat[some] / norm[some, None]).to(flat.dtype)
        made.append(improved(Best(*(v[some] for v in best)), _planes(d, rows), part))
    return Best(*map(torch.cat, zip(*made, strict=True)))


def _planes(d: Dictionary, rows: Tensor) -> Tensor:
    """Return voxels as what atoms are multiplied with, in double precision."""
    if d.real:
        parts = [rows.real, rows.imag] if rows.is_complex() else [rows]
        return torch.stack([v.double() for v in parts])
    wide = rows.to(torch.complex128)
    return planes(torch.cat([wide.real, wide.imag], -1), is_complex=True)


def _finished(best: Best, norm: Tensor, data: Tensor) -> Match:
    found = best.index >= 0
    real = data.real.dtype
    score = torch.where(found, best.score.clamp(0, 1).sqrt(), torch.nan).to(real)
    scale = torch.view_as_complex(best.scale) * norm[:, None]
    scale = torch.where(found, scale, torch.nan)
    return Match(
        best.index, score, scale.to(torch.promote_types(real, torch.complex32))
    )


def _spread(v: Tensor, here: Tensor, shape: tuple[int, ...], top: int | None) -> Tensor:
    """Put the voxels that were matched into their places."""
    total = math.prod(shape)
    empty = v.new_full((total, v.shape[1]), -1 if v.dtype == torch.long else torch.nan)
    full = empty.index_copy(0, here, v).reshape((*shape, v.shape[1]))
    return full if top else full[..., 0]


def _bar(items: Sequence[int], progress: bool) -> Iterable[int]:
    return require("tqdm", "demo").tqdm(items, unit="shard") if progress else items
