"""The Gaussian phase approximation in slabs, cylinders and spheres."""

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrsim._check import check_floats
from mrsim.torrey._strength import check_refocused
from mrsim.torrey.encoding import profile
from mrsim.torrey.encoding_profile import echo_time, moments, pieces
from mrsim.torrey.exponents import exponents
from mrsim.torrey.geometry import Cylinder, Shape, Sphere, axis, dimension, layers
from mrsim.torrey.polynomials import Numbers
from mrsim.torrey.water import Water

_ROOTS = 200


def gaussian_phase(shape: Shape, water: Water, encoding: Any) -> Tensor:
    r"""Return the signal of spins whose phases would be Gaussian.

    log S = −Σₙ wₙ ∫∫_{s<t} g(t)·g(s) e^{−D αₙ²(t−s)/R²} − D b_free − TE/T2, with the
    gradient across the walls. In a slab of half width R, αₙ = (2n+1)π/2 and wₙ =
    2R²/αₙ⁴; in a cylinder J₁'(αₙ) = 0 and wₙ = 2R²/[αₙ²(αₙ² − 1)]; in a sphere j₁'(αₙ)
    = 0 and wₙ = 2R²/[αₙ²(αₙ² − 2)]. Any encoding may be played; for PGSE these are the
    formulas of Neuman and of Murday and Cotts.

    Args:
        shape: `Slab`, `Cylinder` or `Sphere` of one layer.
        water: its D [mm²/s] and T2 [s].
        encoding: any encoding.

    Returns:
        () signal, as a share of all spins.

    Raises:
        ValueError: the geometry has several layers or its surface relaxes, or the
            encoding does not refocus.

    Reference:
        Murday and Cotts 1968 (J. Chem. Phys. 48:4938); Neuman 1974 (J. Chem. Phys.
        60:4508), equations 21, 28 and 34.

    >>> from mrsim import torrey
    >>> x = torrey.PGSE(q=1.2e5, direction=[1.0, 0, 0], delta=0.01, Delta=0.043)
    >>> torrey.gaussian_phase(torrey.Sphere(radius=5e-3), torrey.Water(D=2e-3), x)
    tensor(0.0515)
    """
    full = layers("gaussian_phase", shape, water)
    if len(full.D) > 1 or water.relaxivity is not None:
        raise ValueError(
            "gaussian_phase: the geometry must have one layer whose surface does not"
            " relax; use analytic for others"
        )
    check_refocused("gaussian_phase", encoding, needed=True)
    wave = profile(encoding)
    check_floats("gaussian_phase", D=water.D, duration=wave.duration)
    played = pieces(wave)
    played = _double(played)
    d = dimension(shape)
    alpha = torch.from_numpy(roots(d)).to(full.D.device)
    R = (full.edges[1] - full.edges[0]) / (2 if d == 1 else 1)
    weights = 2 * R**2 / (alpha**2 * (alpha**2 - (d - 1)))
    rates = full.D[0] * alpha**2 / R**2
    total = (weights[:, None, None] * exponents(played, rates)).sum(0)
    within = _across(shape)
    bound = (within * total).sum()
    free = ((torch.eye(3).to(within) - within) * moments(wave)[1].double()).sum()
    echo = echo_time(wave).double()
    made = torch.exp(-bound - full.D[0] * free - echo * full.R2[0])
    return made.to(water.D.dtype)


def _double(played: Any) -> Any:
    return type(played)(
        duration=played.duration.double(),
        vector=played.vector.double(),
        still=played.still,
        segments=played.segments,
        play=played.play,
    )


def _across(shape: Shape) -> Tensor:
    """Return the projection on the restricted directions (3, 3)."""
    n = axis(shape)
    eye = torch.eye(3, dtype=n.dtype, device=n.device)
    if isinstance(shape, Sphere):
        return eye
    along = n[:, None] * n
    return eye - along if isinstance(shape, Cylinder) else along


@lru_cache
def roots(dimension: int) -> Numbers:
    """Return the first positive radial wave numbers αₙ of the class that x excites.

    Args:
        dimension: 1 slab of half width 1, 2 cylinder, 3 sphere.

    Returns:
        (root,) in double precision.
    """
    n = np.arange(float(_ROOTS))
    if dimension == 1:
        return (n + 0.5) * math.pi
    x = (n + (0.75 if dimension == 2 else 1.0)) * math.pi
    x[0] = 1.84 if dimension == 2 else 2.08
    for _ in range(8):
        f, slope = _circle(x) if dimension == 2 else _ball(x)
        x = x - f / slope
    return x


def _circle(x: Numbers) -> tuple[Numbers, Numbers]:
    """Return J₁' and its derivative, by Bessel's integral.

    torch.special.bessel_j1 errs by 2e-7 near x = 5.3.
    """
    count = 1024
    theta = (np.arange(float(count)) + 0.5) * (math.pi / count)
    phase = x[:, None] * np.sin(theta)
    j0, j1 = np.cos(phase).mean(-1), np.cos(theta - phase).mean(-1)
    f = j0 - j1 / x
    return f, -f / x - (1 - 1 / x**2) * j1


def _ball(x: Numbers) -> tuple[Numbers, Numbers]:
    """Return x³ j₁' = 2x cos x − (2 − x²) sin x and its derivative."""
    f = 2 * x * np.cos(x) - (2 - x**2) * np.sin(x)
    return f, x**2 * np.cos(x)
