"""Small fields for the tests: curved bundles and crossings, made in closed form."""

import math

import torch
from torch import Tensor

from mrsim import tract

AFFINE = torch.tensor(
    [
        [1.6, -0.5, 0.2, -12.0],
        [0.6, 1.7, -0.3, -15.0],
        [-0.1, 0.4, 2.1, -9.0],
        [0.0, 0.0, 0.0, 1.0],
    ],
    dtype=torch.float64,
)


def lobes(directions: Tensor, weights: Tensor, lmax: int) -> Tensor:
    """Return coefficients of Σ_k w_k Σ_l a_l P_l(u·v_k), smooth lobes along ±v_k.

    Args:
        directions (..., K, 3): unit vectors v_k.
        weights (..., K): w_k.
        lmax: degree.

    Returns:
        (..., N).
    """
    made = tract.harmonics(directions, lmax)  # (..., K, N)
    orders = torch.cat(
        [torch.full((2 * n + 1,), float(n)) for n in range(0, lmax + 1, 2)]
    )
    taper = torch.exp(-0.02 * orders * (orders + 1)).to(made)
    return (weights[..., None] * made * taper).sum(-2)


def curved(
    size: int = 8, lmax: int = 6, crossing: float = 0.5, affine: Tensor = AFFINE
) -> tract.Field:
    """Return a field of a fanning bundle that a straight one crosses."""
    centre = (size - 1) / 2
    grid = torch.cartesian_prod(*[torch.arange(float(size))] * 3).to(affine)
    p = grid @ affine[:3, :3].t() + affine[:3, 3]
    middle = affine[:3, :3].sum(1) * centre + affine[:3, 3]
    x, y, z = (p - middle).t() / 10
    first = torch.stack([torch.ones_like(x), 0.4 * x + 0.2 * z, 0.3 * torch.sin(y)], -1)
    second = torch.tensor([0.1, 0.9, 0.3]).to(p).expand_as(p)
    ways = torch.stack([first, second], 1)
    ways = ways / ways.norm(dim=-1, keepdim=True)
    weights = torch.stack([1 + 0.1 * torch.cos(x + y), crossing + 0.1 * z], -1)
    made = lobes(ways, weights.clamp(min=0.0), lmax)
    return tract.Field(coefficients=made.reshape(size, size, size, -1), affine=affine)


def inside(count: int, size: int = 8, margin: float = 2.2) -> Tensor:
    """Return seeds (count, 3) off the voxel centres, well inside a field."""
    generator = torch.Generator().manual_seed(3)
    v = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    v = margin + v * (size - 1 - 2 * margin)
    return v @ AFFINE[:3, :3].t() + AFFINE[:3, 3]


def along(count: int) -> Tensor:
    """Return the direction (count, 3) in which the fanning bundle is entered."""
    way = torch.tensor([0.95, 0.25, 0.1], dtype=torch.float64)
    return (way / math.sqrt(float((way * way).sum()))).expand(count, 3).contiguous()
