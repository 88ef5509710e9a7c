"""Spectral Galerkin matrices of a layered geometry, smooth in all its parameters."""

from typing import NamedTuple

import torch
from torch import Tensor

from mrsim.torrey.geometry import Layers, Shape, dimension
from mrsim.torrey.polynomials import Table, table


class Model(NamedTuple):
    """m' = −(rates + decay + i Σₐ gₐ position[a]) m in orthonormal functions."""

    rates: Tensor  # (function, function) diffusion, interfaces, surface [1/s]
    decay: Tensor  # (function, function) transverse relaxation [1/s]
    position: Tensor  # (operator, function, function) [mm]
    start: Tensor  # (function,) of unit magnetisation
    read: Tensor  # (layer, function) each layer's share of all spins


def assemble(shape: Shape, layers: Layers, *, turning: bool) -> Model:
    """Project the Bloch–Torrey equation on polynomials times harmonics.

    Unequal spin densities enter by m = M/ρ, which keeps every matrix symmetric.

    Args:
        shape: the geometry, of which only type and degree are read.
        layers: its edges and water.
        turning: whether the gradient turns.

    Returns:
        The model in functions that are orthonormal under the mass matrix.

    Reference:
        Grebenkov 2008 (J. Magn. Reson. 190:67), matrix formalism; here on polynomials.
    """
    d, edges = dimension(shape), layers.edges
    made = table(d, len(edges) - 1, shape.degree, edges.device, turning=turning)
    start, width = edges[made.layer, None], edges.diff()[made.layer, None]
    r = start + width * made.nodes
    measure = made.weights * width * r ** (d - 1) * layers.rho[made.layer, None]
    value, slope = made.value, made.slope / width

    def product(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
        return torch.einsum("iq,iq,jq->ij", weight, a, b)

    layer = (made.layer[:, None] == made.layer).to(r)
    same = layer * (made.harmonic[:, None] == made.harmonic)
    mass = same * product(value, value, measure)
    bend = made.order * (made.order + d - 2)
    stiff = product(slope, slope, measure)
    if d > 1:
        stiff = stiff + bend * product(value, value, measure / r.square())
    stiff = same * layers.D[made.layer] * stiff + _surfaces(made, layers, d)
    pairs = made.harmonic[:, None], made.harmonic
    where = torch.stack([layer * c[pairs] for c in made.angular])
    position = where * product(value, value, measure * r)
    mean = (made.harmonic == 0) * (measure * value).sum(1)
    rows = torch.arange(len(layers.D), device=edges.device)[:, None] == made.layer
    white = _whitening(mass)
    return Model(
        rates=white @ stiff @ white.mT,
        decay=white @ (mass * layers.R2[made.layer]) @ white.mT,
        position=white @ position @ white.mT,
        start=white @ mean,
        read=(rows * mean) @ white.mT / (white @ mean).square().sum(),
    )


def _whitening(mass: Tensor) -> Tensor:
    """Return W with W mass Wᵀ = 1."""
    factor, _ = torch.linalg.cholesky_ex(mass)
    eye = torch.eye(len(mass), dtype=mass.dtype, device=mass.device)
    return torch.linalg.solve_triangular(factor, eye, upper=False)


def _surfaces(made: Table, layers: Layers, d: int) -> Tensor:
    """Return what interfaces and absorbing surfaces add to the stiffness."""
    edges, rho = layers.edges, layers.rho
    same = made.harmonic[:, None] == made.harmonic
    inside = [made.layer == k for k in range(len(edges) - 1)]
    total = torch.zeros_like(edges[0])
    for k, kappa in enumerate(layers.kappa):
        jump = inside[k] * made.ends[1] - inside[k + 1] * made.ends[0]
        share = 2 * rho[k] * rho[k + 1] / (rho[k] + rho[k + 1])
        area = edges[k + 1] ** (d - 1)
        total = total + kappa * share * area * jump[:, None] * jump
    for side, k in ((0, 0), (1, -1)):
        end = inside[k] * made.ends[side]
        area = edges[-side] ** (d - 1) * rho[k]
        total = total + layers.relaxivity[side] * area * end[:, None] * end
    return same * total
