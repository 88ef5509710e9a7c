"""Signals of slabs, cylinders and spheres in any encoding, without a mesh."""

from typing import Any

import torch
from torch import Tensor

from mrsim._check import check_floats, concrete
from mrsim.torrey._strength import check_refocused
from mrsim.torrey.encoding import Waveform, profile
from mrsim.torrey.encoding_profile import Pieces, moments, order, pieces
from mrsim.torrey.galerkin import Model, assemble
from mrsim.torrey.geometry import Cylinder, Shape, Slab, Sphere, axis, layers
from mrsim.torrey.water import Water
from mrsim.tree import put


def analytic(shape: Shape, water: Water, encoding: Any) -> Tensor:
    r"""Return the signal of a layered slab, cylinder or sphere.

    The multiple propagator S = rᵀ Π exp[−τₖ(Λ + R₂ + i gₖ·X)] m₀ on polynomials times
    angular harmonics, which converges exponentially in ``shape.degree``. Layers
    exchange through permeable interfaces, the outer surface may relax. Double precision
    is used inside. `analytic_error` tells what degree and time steps leave out.

    A gradient along the layers of a slab or cylinder is attenuated freely; where layers
    have a D each this has no finite form and is refused (NaN inside transforms).

    Args:
        shape: `Slab`, `Cylinder` or `Sphere`.
        water: of the layers, (layer,) or scalar D [mm²/s], T2 [s] and rho; (layer − 1,)
            kappa [mm/s]; relaxivity [mm/s] of the outer surface, (2,) in a slab.
        encoding: any encoding.

    Returns:
        () complex signal, as a share of all spins: 1 without gradients and relaxation.

    Raises:
        TypeError: a record or dtype does not fit.
        ValueError: a shape does not fit, or a gradient runs along unequal layers.

    Reference:
        Callaghan 1997 (J Magn Reson 129:74); Grebenkov 2008 (J Magn Reson 190:67).

    >>> from mrsim import torrey
    >>> x = torrey.PGSE(q=1.2e5, direction=[1.0, 0, 0], delta=0.01, Delta=0.043)
    >>> torrey.analytic(torrey.Sphere(radius=5e-3), torrey.Water(D=2e-3), x).real
    tensor(0.0201)
    """
    return analytic_layers(shape, water, encoding).sum(-1)


def analytic_layers(shape: Shape, water: Water, encoding: Any) -> Tensor:
    """Return what each layer adds to the signal of `analytic`.

    Args:
        shape: `Slab`, `Cylinder` or `Sphere`.
        water: of the layers.
        encoding: any encoding.

    Returns:
        (layer,) complex, as shares of all spins; their sum is `analytic`.

    >>> from mrsim import torrey
    >>> x = torrey.PGSE(q=0.0, direction=[1.0, 0, 0], delta=0.01, Delta=0.043)
    >>> two = torrey.Sphere(radius=[3e-3, 5e-3])
    >>> torrey.analytic_layers(two, torrey.Water(D=2e-3), x).real
    tensor([0.2160, 0.7840])
    """
    full = layers("analytic", shape, water)
    check_refocused("analytic", encoding)
    wave = profile(encoding)
    check_floats("analytic", D=water.D, duration=wave.duration)
    played = pieces(wave)
    turning = isinstance(encoding, Waveform)
    turning |= getattr(encoding, "direction2", None) is not None
    model = assemble(shape, full, turning=turning and not isinstance(shape, Slab))
    weights = _weights(shape, encoding, played.vector.double(), turning=turning)
    made = model.read.to(torch.complex128) @ evolve(model, played, weights)
    free = _free(shape, moments(wave)[1].double())
    made = made * (-full.D * _refused(water, free)).exp()
    return made.to(torch.complex64 if water.D.dtype == torch.float32 else made.dtype)


def evolve(model: Model, played: Pieces, weights: Tensor) -> Tensor:
    """Return the state at the echo.

    Args:
        model: matrices of the geometry.
        played: the encoding as constant pieces.
        weights: (piece, operator) of the position operators [rad/(mm s)].

    Returns:
        (function,) complex.
    """
    tau = played.duration.double()[:, None, None]
    rates = model.rates + model.decay
    moving = [k for k, quiet in enumerate(played.still) if not quiet]
    resting = [k for k, quiet in enumerate(played.still) if quiet]
    turns = torch.einsum("ka,aij->kij", weights[moving], model.position)
    fast = torch.matrix_exp(-tau[moving] * torch.complex(rates + 0 * turns, turns))
    slow = torch.matrix_exp(-tau[resting] * rates)
    zero = torch.zeros_like(slow)
    made = dict(zip(moving, fast, strict=True))
    made |= zip(resting, torch.complex(slow, zero), strict=True)
    state = model.start.to(fast.dtype)
    for k, sign in order(played):
        E = made[k] if sign > 0 else torch.complex(made[k].real, -made[k].imag)
        state = E @ state
    return state


def _weights(shape: Shape, encoding: Any, vector: Tensor, *, turning: bool) -> Tensor:
    """Return the operators' weights (piece, operator) of gradients (piece, 3)."""
    if turning and not isinstance(shape, Slab):
        return vector @ _frame(shape).mT
    return position_weights(shape, getattr(encoding, "direction", None), vector)


def position_weights(shape: Shape, direction: Any, vector: Tensor) -> Tensor:
    """Return the weights of the position operators for vectors along one direction.

    Only the square of the part across a cylinder's axis matters: steps of the angular
    order upwards weigh w/s, downwards s, of which the product counts. So there is no
    root of zero to differentiate.

    Args:
        shape: the geometry.
        direction: (3,) of all vectors; a slab needs none.
        vector: (piece, 3).

    Returns:
        (piece, operator) of the unit of the vectors.
    """
    if isinstance(shape, Slab):
        return (vector @ axis(shape))[:, None]
    u = direction.double()
    w = (u * u).sum()
    along = vector @ u / w
    if isinstance(shape, Cylinder):
        w = w - (u * axis(shape)).sum().square()
    s = w.detach().clamp(min=0).sqrt()
    s = torch.where(s > 1e-6, s, torch.ones_like(s))
    return torch.stack([along * w / s, along * s], -1)


def _frame(shape: Shape) -> Tensor:
    """Return orthonormal vectors across a cylinder's axis (2, 3), or the axes."""
    n = axis(shape)
    eye = torch.eye(3, dtype=n.dtype, device=n.device)
    if isinstance(shape, Sphere):
        return eye
    least = torch.arange(3, device=n.device) == n.detach().abs().argmin()
    start = least.to(n)
    one = start - (start * n).sum() * n
    one = one / one.square().sum().sqrt()
    return torch.stack([one, torch.linalg.cross(n, one)])


def _free(shape: Shape, b: Tensor) -> Tensor:
    """Return the b value along the layers, where diffusion is free [s/mm²]."""
    if isinstance(shape, Sphere):
        return 0 * b[0, 0]
    n = axis(shape)
    across = n @ b @ n
    return b.diagonal().sum() - across if isinstance(shape, Slab) else across


def _refused(water: Water, free: Tensor) -> Tensor:
    """Refuse what has no finite form: NaN, or an error where values can be seen."""
    if not water.D.ndim or len(water.D) == 1:
        return free
    some = free.abs() > 1e-6
    if concrete(free) and bool(some):
        raise ValueError(
            f"analytic: the gradient runs along layers of different D, with b ="
            f" {float(free):g} s/mm² there; use a direction across them, one D for all"
            f" layers, or a mesh"
        )
    return torch.where(some, torch.nan, free)


def analytic_error(shape: Shape, water: Water, encoding: Any) -> Tensor:
    """Return what `analytic` leaves out: its change with finer space and time.

    Args:
        shape: `Slab`, `Cylinder` or `Sphere`.
        water: of the layers.
        encoding: any encoding.

    Returns:
        () |S − S'| with four degrees and twice the time steps more in S'.

    >>> from mrsim import torrey
    >>> x = torrey.CosOGSE(q=1.2e5, direction=[1.0, 0, 0], delta=0.02, Delta=0.025)
    >>> float(torrey.analytic_error(torrey.Slab(edges=[-3e-3, 3e-3]),
    ...     torrey.Water(D=2e-3), x)) < 1e-5
    True
    """
    finer = put(shape, "degree", shape.degree + 4)
    steps = getattr(encoding, "steps", None)
    slower = encoding if steps is None else put(encoding, "steps", 2 * steps)
    return (analytic(finer, water, slower) - analytic(shape, water, encoding)).abs()


def analytic_rates(shape: Shape, water: Water) -> Tensor:
    """Return the eigenvalues of diffusion in the class that a gradient excites.

    Each angular order counts once. Equal eigenvalues have finite derivatives here.

    Args:
        shape: `Slab`, `Cylinder` or `Sphere`.
        water: of the layers; relaxation counts only at the surface.

    Returns:
        (function,) ascending [1/s]; the slowest are converged.

    >>> import math
    >>> from mrsim import torrey
    >>> slab = torrey.Slab(edges=[-3e-3, 3e-3], degree=20)
    >>> torrey.analytic_rates(slab, torrey.Water(D=2e-3))[1] / (math.pi / 6e-3) ** 2
    tensor(0.0020)
    """
    model = assemble(shape, layers("analytic_rates", shape, water), turning=False)
    return torch.linalg.eigvalsh(model.rates).to(water.D.dtype)
