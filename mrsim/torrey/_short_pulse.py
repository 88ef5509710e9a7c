"""Short gradient pulses in slabs, cylinders and spheres."""

import math

import torch
from torch import Tensor

from mrsim._check import check_floats
from mrsim.torrey._analytic import position_weights
from mrsim.torrey._plausible import check_encoding
from mrsim.torrey.encoding import PGSE
from mrsim.torrey.galerkin import assemble
from mrsim.torrey.geometry import Shape, Slab, Sphere, axis, dimension, layers
from mrsim.torrey.water import Water

_SERIES = 100
_ANGLES = 256
_LARGEST = 400.0


def short_pulse(shape: Shape, water: Water, encoding: PGSE) -> Tensor:
    r"""Return the signal of infinitely short pulses of the same area.

    The pulses give the phase Q·x with Q = q δ; the time between them is Δ. A slab of
    one layer has the series S = Σₙ |∫e^{iQx} uₙ|² e^{−D(nπ/L)²Δ}; else both pulses act
    as exp(iQ·X) on the functions of `analytic`. Diffusion along a slab or cylinder is
    free.

    Args:
        shape: `Slab`, `Cylinder` or `Sphere`; layers must have one D for a gradient
            along them.
        water: as in `analytic`.
        encoding: q, direction, delta and Delta are read.

    Returns:
        () signal, as a share of all spins.

    Raises:
        TypeError: the encoding is no PGSE.

    Reference:
        Tanner and Stejskal 1968 (J. Chem. Phys. 49:1768), equation 6; Callaghan 1995
        (J. Magn. Reson. A 113:53).

    >>> from mrsim import torrey
    >>> x = torrey.PGSE(q=6e5, direction=[1.0, 0, 0], delta=1e-3, Delta=5e-3)
    >>> torrey.short_pulse(torrey.Slab(edges=[-3e-3, 3e-3]), torrey.Water(D=2e-3), x)
    tensor(0.3288)
    """
    if not isinstance(encoding, PGSE):
        raise TypeError(
            f"short_pulse: the encoding must be a PGSE, got {type(encoding).__name__};"
            f" analytic takes every encoding"
        )
    check_encoding(encoding)
    full = layers("short_pulse", shape, water)
    check_floats("short_pulse", D=water.D, **_timings(encoding))
    moment = (encoding.q * encoding.delta * encoding.direction).double()
    Delta = encoding.Delta.double()
    squared = moment.square().sum()
    if isinstance(shape, Slab) and len(full.D) == 1 and water.relaxivity is None:
        width = full.edges[1] - full.edges[0]
        kept = _slab(moment @ axis(shape) * width, full.D[0] * Delta / width**2)
        made = kept * torch.exp(-Delta * full.R2[0])
    else:
        model = assemble(shape, full, turning=False)
        weights = position_weights(shape, encoding.direction, moment[None])[0]
        turns = torch.einsum("a,aij->ij", weights, model.position)
        turned = torch.matrix_exp(torch.complex(0 * turns, turns))
        between = torch.matrix_exp(-Delta * (model.rates + model.decay))
        state = turned @ model.start.to(turned.dtype)
        state = between.to(turned.dtype) @ state
        back = torch.complex(turned.real, -turned.imag)
        made = (model.read.sum(0).to(turned.dtype) @ (back @ state)).real
    free = squared - across(shape, moment)
    return (made * torch.exp(-full.D[0] * Delta * free)).to(water.D.dtype)


def short_pulse_limit(shape: Shape, encoding: PGSE) -> Tensor:
    r"""Return the signal of short pulses after a time that is long against R²/D.

    The squared form factor: (sin x/x)² in a slab of half width R, [2J₁(x)/x]² in a
    cylinder, [3 (sin x − x cos x)/x³]² in a sphere, x = qδR across the walls. Free
    diffusion along a slab or cylinder and relaxation are left out.

    Args:
        shape: `Slab`, `Cylinder` or `Sphere` of one layer.
        encoding: q, direction and delta are read.

    Returns:
        () signal, 1 at q = 0; NaN above x = 400 in a cylinder.

    Reference:
        Callaghan 1991, Principles of NMR Microscopy, section 7.3.

    >>> from mrsim import torrey
    >>> x = torrey.PGSE(q=6e5, direction=[1.0, 0, 0], delta=1e-3, Delta=1.0)
    >>> torrey.short_pulse_limit(torrey.Sphere(radius=5e-3), x)
    tensor(0.1195)
    """
    full = layers("short_pulse_limit", shape, Water(D=encoding.q))
    moment = (encoding.q * encoding.delta * encoding.direction).double()
    R = full.edges[-1]
    if isinstance(shape, Slab):
        R = (full.edges[-1] - full.edges[0]) / 2
    y = across(shape, moment) * R**2
    return form_factor(dimension(shape), y).square().to(encoding.q.dtype)


def across(shape: Shape, vector: Tensor) -> Tensor:
    """Return the squared length of a vector's part across the walls."""
    squared = vector.square().sum()
    if isinstance(shape, Sphere):
        return squared
    along = (vector @ axis(shape)).square()
    return along if isinstance(shape, Slab) else squared - along


def form_factor(dimension: int, y: Tensor) -> Tensor:
    """Return the mean of e^{iQx} over a ball of radius 1, from y = Q².

    Args:
        dimension: 1, 2 or 3.
        y: squared wave number, of any shape.

    Returns:
        Of y's shape.
    """
    small, large = torch.where(y < 1, y, 0.0), torch.where(y < 1, 1.0, y)
    near = torch.ones_like(y)
    for k in reversed(range(1, 14)):
        near = 1 - near * small / (4 * k * (k + dimension / 2))
    x = large.sqrt()
    if dimension == 1:
        far = x.sin() / x
    elif dimension == 3:
        far = 3 * (x.sin() - x * x.cos()) / (x * large)
    else:
        theta = torch.arange(_ANGLES, dtype=y.dtype, device=y.device) + 0.5
        theta = theta * (math.pi / _ANGLES)
        waves = torch.cos(x[..., None] * theta.cos()) * theta.sin().square()
        far = torch.where(x > _LARGEST, torch.nan, 2 * waves.mean(-1))
    return torch.where(y < 1, near, far)


def _slab(phase: Tensor, time: Tensor) -> Tensor:
    """Sum the series of a slab; phase QL, time DΔ/L²."""
    n = torch.arange(_SERIES, dtype=phase.dtype, device=phase.device)
    up, down = (torch.sinc((phase / math.pi + s * n) / 2) for s in (1, -1))
    even = n % 2 == 0
    overlap = torch.where(even, up + down, down - up)
    weight = torch.where(n == 0, 0.25, 0.5)
    return (weight * overlap.square() * torch.exp(-((n * math.pi) ** 2) * time)).sum()


def _timings(encoding: PGSE) -> dict[str, Tensor]:
    names = ("q", "direction", "delta", "Delta")
    return {n: getattr(encoding, n) for n in names}
