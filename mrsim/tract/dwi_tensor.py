"""The diffusion tensor: fits, invariants and the direction of fastest diffusion."""

import math

import torch
from torch import Tensor

from mrsim._check import check_floats
from mrsim.tract.scheme import Scheme, check_scheme
from mrsim.tree import record

_SMALL = 1e-6  # of the largest signal: what smaller ones are raised to
_POLISH = 4  # Newton steps: derivatives of the eigenvalue exact to order 15


@record
class Diffusion:
    """A voxel's diffusion tensor."""

    D: Tensor  # (3, 3) symmetric [mm²/s]
    S0: Tensor  # () signal without weighting [the data's unit]


def fit_tensor(
    signal: Tensor, scheme: Scheme, *, reweight: int = 2, ordinary: bool = False
) -> Diffusion:
    """Fit the diffusion tensor of a voxel to the logarithm of its signals.

    Weighted least squares of log S = log S0 − b gᵀD g: weights first the signals, then
    the signals of the last fit, as MRtrix's dwi2tensor does by default. Signals below
    1e-6 of the largest count as that, and those that are not finite not at all; where
    none is positive all is NaN.

    Args:
        signal: (volume,) [any unit].
        scheme: the volumes' weighting.
        reweight: fits that follow the first.
        ordinary: all weights of the first fit 1.

    Returns:
        The tensor, differentiable in the signal and the scheme; NaN where the scheme
        cannot tell it.

    Raises:
        ValueError: shapes do not fit.
        TypeError: dtypes differ.

    Reference:
        Basser 1994, J Magn Reson B 103:247; Veraart 2013, NeuroImage 81:335.

    >>> import torch
    >>> from mrsim import tract
    >>> g = tract.hemisphere(7).float()
    >>> scheme = tract.Scheme(b=torch.tensor([0.0] + [1000.0] * 6), directions=g)
    >>> fit_tensor(2 * (-scheme.b * 7e-4).exp(), scheme).S0
    tensor(2.)
    """
    if signal.ndim != 1:
        raise ValueError(
            f"fit_tensor: signal must have shape (volume,), got {tuple(signal.shape)};"
            f" map over voxels with vmap(fit_tensor, in_dims=(0, None))"
        )
    check_floats("fit_tensor", signal=signal, b=scheme.b)
    check_scheme("fit_tensor", scheme, len(signal))
    data = signal.double()
    known = data.isfinite()
    top = torch.where(known, data, 0.0).amax()
    top = torch.where(top > 0, top, torch.nan)
    raised = torch.where(known & (data > _SMALL * top), data, _SMALL * top)
    # in units of the largest b, where the unknowns are about 1
    unit = scheme.b.detach().double().amax().clamp_min(1.0)
    a = _design(scheme.b.double() / unit, scheme.directions.double())
    scaled = raised / top
    y = scaled.log()
    weights = torch.ones_like(y) if ordinary else scaled
    x = _least_squares(a, y, weights * known)
    for _ in range(reweight):
        x = _least_squares(a, y, (a @ x).exp() * known)
    d = x[:6] / unit
    full = d.index_select(0, torch.tensor([0, 3, 4, 3, 1, 5, 4, 5, 2], device=d.device))
    made = Diffusion(D=full.reshape(3, 3), S0=x[6].exp() * top)
    return Diffusion(D=made.D.to(signal), S0=made.S0.to(signal))


def _design(b: Tensor, g: Tensor) -> Tensor:
    """Return the matrix from Dxx Dyy Dzz Dxy Dxz Dyz log S0 to log S."""
    x, y, z = g.unbind(-1)
    products = torch.stack([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z], -1)
    return torch.cat([-b.unsqueeze(-1) * products, torch.ones_like(products[:, :1])], 1)


def _least_squares(a: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    w = weights.square()
    normal = a.mT @ (w.unsqueeze(-1) * a)
    root, failed = torch.linalg.cholesky_ex(normal)
    pivots = root.diagonal()
    poor = (failed > 0) | (pivots.amin() <= 1e-7 * pivots.amax())
    x = torch.cholesky_solve((a.mT @ (w * y)).unsqueeze(-1), root).squeeze(-1)
    return torch.where(poor, math.nan, x)


def md(D: Tensor) -> Tensor:
    """Return the mean diffusivity, tr D / 3.

    Args:
        D: (..., 3, 3) [mm²/s].

    Returns:
        (...) [mm²/s].

    >>> import torch
    >>> md(torch.diag(torch.tensor([3.0, 2.0, 1.0])))
    tensor(2.)
    """
    return D.diagonal(dim1=-2, dim2=-1).mean(-1)


def fa(D: Tensor) -> Tensor:
    """Return the fractional anisotropy, √(3/2) ‖D − MD‖ / ‖D‖.

    Args:
        D: (..., 3, 3) [mm²/s].

    Returns:
        (...) in 0 … 1; 0 for an isotropic tensor, where it has a kink and its
        derivative is given as 0.

    Reference:
        Basser and Pierpaoli 1996, J Magn Reson B 111:209.

    >>> import torch
    >>> fa(torch.diag(torch.tensor([1.0, 0.0, 0.0])))
    tensor(1.)
    """
    eye = torch.eye(3, dtype=D.dtype, device=D.device)
    rest = D - md(D).unsqueeze(-1).unsqueeze(-1) * eye
    part, whole = rest.square().sum((-2, -1)), D.square().sum((-2, -1))
    kept = part > (torch.finfo(D.dtype).eps ** 2) * whole
    ratio = torch.where(kept, part, 1.0) / torch.where(kept, whole, 1.0)
    anisotropy = torch.where(kept, (1.5 * ratio).sqrt(), 0.0)
    return torch.where(whole.isnan(), math.nan, anisotropy)


def principal(D: Tensor) -> tuple[Tensor, Tensor]:
    """Return the direction of fastest diffusion and how well it is defined.

    The eigenvector of the largest eigenvalue λ₁, through (D − λ₂)(D − λ₃) of the
    characteristic polynomial: derivatives are exact also where λ₂ = λ₃, unlike those of
    an eigenvalue routine.

    Args:
        D: (..., 3, 3) symmetric.

    Returns:
        (..., 3) unit vector, its largest entry positive; (...) the gap
        (λ₁ − λ₂) / ‖D‖. Derivatives grow as 1 / gap; where the gap is 0 there is no
        direction: the value is some eigenvector, derivatives are infinite or NaN.

    >>> import torch
    >>> principal(torch.diag(torch.tensor([1.0, 3.0, 1.0])))[0]
    tensor([0., 1., 0.])
    """
    whole = D.double()
    eye = torch.eye(3, dtype=whole.dtype, device=D.device)
    # eigh raises for a whole batch that holds one NaN
    fine = whole.isfinite().all(-1).all(-1).unsqueeze(-1).unsqueeze(-1)
    values, vectors = torch.linalg.eigh(torch.where(fine, whole, eye).detach())
    start, value = vectors[..., -1], values[..., -1]
    largest = start.abs().argmax(-1, keepdim=True)
    start = start * start.gather(-1, largest).sign()
    trace = whole.diagonal(dim1=-2, dim2=-1).sum(-1)
    minors = (trace.square() - (whole @ whole).diagonal(dim1=-2, dim2=-1).sum(-1)) / 2
    det = (
        torch.linalg.cross(whole[..., 0, :], whole[..., 1, :]) * whole[..., 2, :]
    ).sum(-1)
    size = values.square().sum(-1).sqrt()
    gap = (value - values[..., 1]) / torch.where(size > 0, size, 1.0)
    for _ in range(_POLISH):
        cubic = ((value - trace) * value + minors) * value - det
        slope = (3 * value - 2 * trace) * value + minors
        value = value - cubic / slope
    # λ₂ + λ₃ and λ₂ λ₃ follow from λ₁, so that nothing asks which is which
    rest = trace - value
    product = minors - value * rest
    once = (whole @ start.unsqueeze(-1)).squeeze(-1)
    twice = (whole @ once.unsqueeze(-1)).squeeze(-1)
    image = twice - rest.unsqueeze(-1) * once + product.unsqueeze(-1) * start
    unit = image / image.square().sum(-1, keepdim=True).sqrt()
    lost = (gap <= 4 * torch.finfo(D.dtype).eps).unsqueeze(-1)
    # where there is no direction: the root of zero, whose derivative is infinite
    still = (whole - whole.detach()).sum((-2, -1)).unsqueeze(-1)
    broken = torch.where(lost, torch.where(lost, still, 1.0).sqrt(), 0.0)
    exact = torch.where(lost, start, unit) + broken
    return exact.to(D.dtype), gap.to(D.dtype)
