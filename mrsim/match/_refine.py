"""Refine matches between the atoms by Gauss-Newton steps through the simulator."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from mrsim.match._atoms import params
from mrsim.match._dictionary import Dictionary, compress
from mrsim.match._match import Match
from mrsim.transform import locate, value_and_jac
from mrsim.tree import get, put, tree_leaves, tree_map

_PIECE = 2**10
_SAMPLE = 4096


class Refined(NamedTuple):
    """Parameters between the atoms; NaN where there was no match."""

    params: Any  # a record whose leaves have the shape of the match first
    score: Tensor  # cos of the angle to the voxel, not below that of the atom
    scale: Tensor  # complex ⟨signal, voxel⟩ / |signal|²


class _Point(NamedTuple):
    """Where voxels stand; each leaf has the voxel axis first."""

    x: Tensor  # (n, unknown)
    score: Tensor  # (n,) cos²
    scale: Tensor  # (n,) complex
    step: Tensor  # (n, unknown) to the minimum of the linearised model


def refine(
    d: Dictionary,
    found: Match,
    data: Tensor,
    *unknowns: str,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    steps: int = 3,
    compressed: bool = False,
) -> Refined:
    """Move from the best atoms to the best parameters between them.

    Each step minimises |v - a c(θ + δ)|² over δ for c linear in δ, the scale a being
    whatever is best (variable projection); it is clipped to the bounds, and taken back
    and quartered where the fit got worse. The first one is linear at atoms, which many
    voxels share; it is a plain interpolation and the cheapest.

    Args:
        d: the dictionary.
        found: what `match` returned for the data, without ``top``.
        data: as for `match`.
        *unknowns: names of scalar fields of the atoms' record.
        bounds: name → (lower, upper) [the field's unit]; by default what the atoms
            (4096 of them, evenly spaced in their index) span.
        steps: how many; each simulates every voxel once, with derivatives.
        compressed: data are coefficients already.

    Returns:
        The parameters, scores and scales.

    Raises:
        ValueError: an unknown is missing, is no scalar field, or a bound is of none.

    Reference:
        Golub and Pereyra 1973 (SIAM J Numer Anal 10:413); Kaufman 1975 (BIT 15:49).

    >>> import mrsim, torch
    >>> from mrsim import match
    >>> decay = lambda tissue, t: (-t / tissue.T2).exp()
    >>> atoms = match.grid(mrsim.Tissue(T1=1.0, T2=0.1), T2=[0.05, 0.1, 0.2])
    >>> t = torch.linspace(0.01, 0.2, 20)
    >>> d = match.dictionary(decay, atoms, t)
    >>> data = decay(mrsim.Tissue(T1=1.0, T2=0.12), t)
    >>> match.refine(d, match.match(d, data), data, "T2").params.T2
    tensor(0.1200)
    """
    shape = found.index.shape
    index, rows = found.index.reshape(-1), data.reshape(-1, data.shape[-1])
    here = (index >= 0).nonzero()[:, 0]
    start = params(d.atoms, index)
    for name in unknowns:
        locate([start], name)
    values = [get(start, n) for n in unknowns]
    if not values or any(v is None or v.ndim != 1 for v in values):
        raise ValueError("refine: name scalar fields of the atoms, such as 'T1', 'T2'")
    low, high = _limits(d, unknowns, bounds or {}, start)
    v = rows[here] if compressed else compress(d, rows[here])
    base = tree_map(lambda leaf: leaf[here], start)
    point = _first(d, index[here], v, unknowns)
    outside = ((point.x < low) | (point.x > high)).any(1)
    point = point._replace(score=torch.where(outside, -1.0, point.score))
    ease = torch.ones_like(point.score)
    for k in range(steps):
        x = torch.clamp(point.x + (ease[:, None] * point.step).to(point.x), low, high)
        new = _looked(d, _with(base, unknowns, x), v, unknowns, last=k + 1 == steps)
        point, ease = _judged(point, new, ease)
    moved = _with(base, unknowns, point.x)
    score = torch.full_like(found.score.reshape(-1), torch.nan)
    scale = torch.full_like(found.scale.reshape(-1), torch.nan)
    made = Refined(
        params=tree_map(lambda a, b: a.index_copy(0, here, b), start, moved),
        score=score.index_copy(0, here, point.score.clamp(0, 1).sqrt().to(score)),
        scale=scale.index_copy(0, here, point.scale.to(scale)),
    )
    return tree_map(lambda leaf: leaf.reshape((*shape, *leaf.shape[1:])), made)


def _judged(old: _Point, new: _Point, ease: Tensor) -> tuple[_Point, Tensor]:
    """Take steps that fit better, and quarter the others."""
    better = new.score > old.score

    def chosen(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(better.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    if not new.step.shape[1]:
        new = new._replace(step=old.step)
    return tree_map(chosen, new, old), torch.where(better, 1.0, ease / 4)


def _limits(
    d: Dictionary,
    unknowns: tuple[str, ...],
    bounds: Mapping[str, tuple[float, float]],
    like: Any,
) -> tuple[Tensor, Tensor]:
    if set(bounds) - set(unknowns):
        raise ValueError(f"refine: bounds of {[*bounds]}, but unknowns are {unknowns}")
    count = min(_SAMPLE, d.atoms.count)
    some = d.atoms.at(torch.arange(count) * (d.atoms.count - 1) // max(1, count - 1))
    pairs = [bounds.get(n, tuple(map(float, get(some, n).aminmax()))) for n in unknowns]
    low, high = (
        torch.tensor(pairs, dtype=torch.float64).to(get(like, unknowns[0])).unbind(1)
    )
    return low, high


def _with(base: Any, unknowns: tuple[str, ...], x: Tensor) -> Any:
    for k, name in enumerate(unknowns):
        base = put(base, name, x[:, k])
    return base


def _first(
    d: Dictionary, index: Tensor, v: Tensor, unknowns: tuple[str, ...]
) -> _Point:
    """Linearise at the atoms: once for all voxels that share one."""
    atoms, which = index.unique(return_inverse=True)
    some = params(d.atoms, atoms)
    c, j = _linear(d, some, unknowns)
    x = torch.stack([get(some, n) for n in unknowns], 1)
    return _stepped(x[which], c[which], j[which], v)


def _looked(
    d: Dictionary, some: Any, v: Tensor, unknowns: tuple[str, ...], last: bool
) -> _Point:
    c, j = _linear(d, some, () if last else unknowns)
    x = torch.stack([get(some, n) for n in unknowns], 1)
    return _stepped(x, c, j, v)


def _linear(
    d: Dictionary, some: Any, unknowns: tuple[str, ...]
) -> tuple[Tensor, Tensor]:
    """Return coefficients (n, rank) and their derivatives (n, unknown, rank)."""
    dims = (0, *(None for _ in d.args))

    def at(part: Any) -> tuple[Tensor, Tensor]:
        if not unknowns:
            c = compress(d, vmap(d.f, dims)(part, *d.args))
            return c, c[:, None][:, :0]
        s, made = vmap(value_and_jac(d.f, *unknowns), dims)(part, *d.args)
        columns = torch.stack([get(made, n) for n in unknowns], 1)
        return compress(d, s), compress(d, columns)

    count = len(tree_leaves(some)[0])
    starts = range(0, count, _PIECE)
    parts = [at(tree_map(lambda x, i=i: x[i : i + _PIECE], some)) for i in starts]
    c, j = (torch.cat(p) for p in zip(*parts, strict=True))
    return c, j


def _stepped(x: Tensor, c: Tensor, j: Tensor, v: Tensor) -> _Point:
    """Return score, scale and the step of variable projection from c and ∂c/∂θ."""
    # in double precision: a score near 1 tells angles below 1e-3 from rounding errors
    dtype = torch.promote_types(torch.promote_types(c.dtype, v.dtype), torch.float64)
    c, j, v = c.to(dtype), j.to(dtype), v.to(dtype)
    energy = c.abs().square().sum(1)
    inner = (c.conj() * v).sum(1)
    scale = inner / energy
    residual = v - scale[:, None] * c
    along = (c.conj()[:, None] * j).sum(2) / energy[:, None]
    slope = scale[:, None, None] * (j - along[:, :, None] * c[:, None])
    rows, r = (
        torch.view_as_real(y).flatten(-2) if y.is_complex() else y
        for y in (slope, residual)
    )
    size = rows.square().sum(2).sqrt()
    unit = torch.where(size > 0, 1 / torch.where(size > 0, size, 1.0), 0.0)
    rows = rows * unit[:, :, None]
    curve = rows @ rows.mT + 1e-6 * torch.eye(rows.shape[1]).to(rows)
    inverse, _ = torch.linalg.inv_ex(curve)
    step = (inverse @ (rows @ r[:, :, None]))[:, :, 0] * unit
    score = inner.abs().square() / energy / v.abs().square().sum(1)
    return _Point(x, score, scale + 0j, step.nan_to_num(0.0, 0.0, 0.0))
