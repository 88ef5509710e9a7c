"""Atoms in groups of alike ones, each with a bound of how alike they are.

The angle θ between the lines of two signals, cos θ = |⟨a, b⟩| / |a||b|, is a distance
(Fubini-Study): a voxel at the angle θ from one atom of a group lies at no less than
θ - ρ from the others, ρ the largest angle from that atom within the group.
"""

from typing import NamedTuple

import torch
from torch import Tensor

_SIZE = 256
ROUNDING = 64.0  # times eps: error of a float32 cosine


class Groups(NamedTuple):
    """A part of a dictionary, in groups of equal size."""

    index: Tensor  # (group, atom) of the dictionary; -1 where there is none
    unit: Tensor  # (group, atom, k) coefficients of norm 1, double, [re | im]; or 0
    norm: Tensor  # (group, atom) norm of the coefficients
    centre: Tensor  # (group, k) float32: one of the atoms
    cos: Tensor  # (group,) float32: of the radius ρ
    sin: Tensor  # (group,)


def groups(coefs: Tensor, start: int = 0, size: int = _SIZE) -> Groups | None:
    """Sort atoms into groups by halving them along their widest coordinate.

    Args:
        coefs: (n, rank) coefficients, real or complex; atoms that are zero or not
            finite are left out.
        start: the index of the first.
        size: most atoms in a group.

    Returns:
        The groups; ``None`` if no atom is left.
    """
    wide = torch.view_as_real(coefs) if coefs.is_complex() else coefs.unsqueeze(-1)
    norm = wide.double().square().sum((1, 2)).sqrt()
    here = (norm.isfinite() & (norm > 0)).nonzero()[:, 0]
    if not len(here):
        return None
    norm = norm[here]
    unit = wide[here].double() / norm[:, None, None]
    halvings = max(0, -(-len(here) // size) - 1).bit_length()
    each = -(-len(here) >> halvings) if halvings else len(here)
    order = _halved(_aligned(unit).float(), halvings, each)
    flat = unit.mT.flatten(1)

    def dealt(x: Tensor, empty: float) -> Tensor:
        shaped = x[order.clamp(min=0)].unflatten(0, (2**halvings, each))
        gone = (order < 0).reshape(2**halvings, each, *(1,) * (x.ndim - 1))
        return shaped.masked_fill(gone, empty)

    members = dealt(flat, 0.0)
    middle = dealt(_aligned(unit).mT.flatten(1), 0.0).sum(1, keepdim=True)
    nearest = _lines(middle, members, coefs.is_complex())[:, 0].argmax(1)
    centre = members[torch.arange(len(members), device=members.device), nearest]
    alike = _lines(centre[:, None], members, coefs.is_complex())[:, 0].sqrt()
    index = dealt(here + start, -1)
    cos = alike.masked_fill(index < 0, 1.0).amin(1).clamp(0, 1)
    return Groups(
        index=index,
        unit=members,
        norm=dealt(norm, 1.0),
        centre=centre.float(),
        cos=cos.float(),
        sin=(1 - cos.square()).clamp(min=0).sqrt().float(),
    )


def _aligned(unit: Tensor) -> Tensor:
    """Turn atoms (n, r, 1 or 2) so that their largest coordinate is positive."""
    main = unit.square().sum(-1).mean(0).argmax()
    if unit.shape[-1] == 1:
        return unit * unit[:, main].sgn().unsqueeze(1)
    z = torch.view_as_complex(unit.contiguous())
    return torch.view_as_real(z * z[:, main].sgn().conj().unsqueeze(1))


def _halved(x: Tensor, times: int, each: int) -> Tensor:
    """Return an order of the rows of x, cut into 2**times parts; -1 fills them up."""
    x = x.flatten(1)
    total = each << times
    order = torch.arange(total, device=x.device)
    order = torch.where(order < len(x), order, -1)
    for level in range(times):
        parts = order.reshape(2**level, -1)
        rows = x[parts.clamp(min=0)]
        absent = (parts < 0).unsqueeze(-1)
        spread = rows.masked_fill(absent, -torch.inf).amax(1) - rows.masked_fill(
            absent, torch.inf
        ).amin(1)
        axis = spread.argmax(1).reshape(-1, 1, 1).expand(-1, parts.shape[1], 1)
        key = rows.gather(2, axis)[..., 0].masked_fill(parts < 0, torch.inf)
        order = parts.gather(1, key.argsort(dim=1, stable=True)).reshape(-1)
    return order


def _lines(a: Tensor, b: Tensor, is_complex: bool) -> Tensor:
    """Return |⟨a, b⟩|² of rows [re | im]: (…, n, k) and (…, m, k) → (…, n, m)."""
    return score(planes(a, is_complex), b)


def planes(v: Tensor, is_complex: bool) -> Tensor:
    """Return what real atoms are multiplied with to give |⟨atom, v⟩|².

    Args:
        v: (…, n, k) voxels, [re | im] if ``is_complex``.
        is_complex: whether the atoms are.

    Returns:
        (1 or 2, …, n, k).
    """
    if not is_complex:
        return v.unsqueeze(0)
    re, im = v.chunk(2, -1)
    return torch.stack([torch.cat([re, im], -1), torch.cat([im, -re], -1)])


def score(voxels: Tensor, atoms: Tensor) -> Tensor:
    """Return |⟨atom, voxel⟩|², the one matrix product of matching.

    Args:
        voxels: (1 or 2, …, n, k) as from `planes`.
        atoms: (…, m, k).

    Returns:
        (…, n, m).
    """
    product = (voxels @ atoms.mT).square_()
    return product[0] if len(product) == 1 else product[0].add_(product[1])
