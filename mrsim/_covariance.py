"""The inverse of a Fisher matrix, also where it has none.

Safe under every composition of torch.func transforms: one singular or NaN matrix of a
batch changes no other.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

_ROUNDING = 10.0  # times eps and p: errors of the eigenvalues of a unit-diagonal matrix


def covariance(information: Tensor) -> Tensor:
    """Invert a Fisher matrix: the smallest covariance of unbiased estimates.

    C = F⁻¹, by unit-diagonal scaling. A parameter with Fᵢᵢ = 0, or with a part in a
    null vector of the scaled F (eigenvalue ≤ 10 p eps), has Cᵢᵢ = inf and Cᵢⱼ = 0
    beside it, with derivative 0; the others keep their covariance.

    Args:
        information: Fisher matrix (p, p), as from `fisher`.

    Returns:
        C, of shape (p, p); NaN throughout where F has an entry that is not finite.

    >>> import mrsim, torch
    >>> coupled = [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 4.0]]
    >>> mrsim.covariance(torch.tensor(coupled))
    tensor([[   inf, 0.0000, 0.0000],
            [0.0000,    inf, 0.0000],
            [0.0000, 0.0000, 0.2500]])
    """
    eps = torch.finfo(information.dtype).eps
    return invert(information.double(), eps).matrix.to(information.dtype)


def logdet(information: Tensor) -> Tensor:
    """Return log det F, the criterion of D-optimal designs.

    Unlike ``torch.logdet`` it is right under ``vmap(jacfwd)``.

    Args:
        information: Fisher matrix (p, p), as from `fisher`.

    Returns:
        (); -inf with derivative 0 where F is singular, NaN where it is not finite.

    >>> import mrsim, torch
    >>> mrsim.logdet(torch.diag(torch.tensor([2.0, 3.0]))).exp()
    tensor(6.)
    """
    f = _regular(information.double(), torch.finfo(information.dtype).eps)
    root = torch.linalg.cholesky_ex(f.matrix)[0].diagonal()
    value = 2 * (root.log() + f.unit.log()).sum()
    lost = (f.absent | f.coupled).any()
    return (torch.where(lost, -math.inf, value) + f.poison).to(information.dtype)


class Bound(NamedTuple):
    """The inverse of a Fisher matrix and what it could not invert."""

    matrix: Tensor  # (p, p) covariance
    absent: Tensor  # (p,) bool: no information at all
    coupled: Tensor  # (p,) bool: part of a combination without information


def invert(information: Tensor, eps: float) -> Bound:
    """Invert a Fisher matrix held in double precision, see `covariance`.

    Args:
        information: (p, p), float64.
        eps: relative rounding of the model's Jacobian.

    Returns:
        The covariance and which parameters have none.
    """
    f = _regular(information, eps)
    inverse = torch.linalg.inv_ex(f.matrix)[0] / (f.unit * f.unit.unsqueeze(-1))
    lost = f.absent | f.coupled
    blank = torch.diag_embed(torch.full_like(f.unit, math.inf))
    matrix = torch.where(lost | lost.unsqueeze(-1), blank, inverse)
    return Bound(matrix + f.poison, f.absent, f.coupled)


class _Regular(NamedTuple):
    matrix: Tensor  # (p, p) unit-diagonal and invertible: R + P
    unit: Tensor  # (p,) by which rows and columns were divided
    absent: Tensor
    coupled: Tensor
    poison: Tensor  # () 0, or NaN with NaN derivatives where F is not finite


def _regular(information: Tensor, eps: float) -> _Regular:
    """Return a Fisher matrix with the unit diagonal and without null space.

    With P the projector on the null space of the scaled matrix R, R + P is invertible,
    and where P eⱼ = 0 its inverse holds the exact bound of parameter j: R y = eⱼ has a
    solution with P y = 0, so (R + P) y = eⱼ. That stays true when R moves and P does
    not, so P is a constant of every derivative.
    """
    size = information.shape[-1]
    eye = torch.eye(size, dtype=information.dtype, device=information.device)
    # eigh raises for a whole batch that holds one NaN
    finite = information.isfinite().all()
    safe = torch.where(finite, information, eye)
    absent = safe.detach().diagonal() <= 0
    unit = torch.where(absent, 1.0, safe.diagonal()).sqrt()
    ratios = safe / (unit * unit.unsqueeze(-1))
    scaled = torch.where(absent | absent.unsqueeze(-1), eye, ratios)
    values, vectors = torch.linalg.eigh(scaled.detach())
    tolerance = _ROUNDING * eps * size
    lasting = torch.where(values <= tolerance, 1.0, values).amin()
    null = vectors * (values <= tolerance)
    projector = null @ null.mT
    # rounding turns a null vector by tolerance / (distance to the other eigenvalues)
    turned = (tolerance / lasting).square().clamp_max(tolerance)
    coupled = projector.diagonal() > turned
    # where() alone would give a NaN matrix the derivative 0
    factor = torch.where(finite, 1.0, math.nan)
    poison = torch.where(finite, 0.0, information).sum() * factor
    return _Regular(scaled + projector, unit, absent, coupled, poison)
