"""The inverse of a Fisher matrix, also where it has none.

Safe under every composition of torch.func transforms: one singular or NaN matrix of a
batch changes no other.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim import _levels
from mrsim._check import concrete
from mrsim._levels import Family, no_derivative
from mrsim._recorder import opaque

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
    dtype, information = information.dtype, information.double()
    f = regular(information, torch.finfo(dtype).eps)
    root = torch.linalg.cholesky_ex(information * f.unit + f.shift)[0].diagonal()
    value = 2 * root.log().sum() - f.unit.diagonal().log().sum()
    return torch.where((f.absent | f.coupled).any(), -math.inf, value).to(dtype)


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
    f = regular(information, eps)
    inverse = torch.linalg.inv_ex(information * f.unit + f.shift)[0]
    return Bound(inverse * f.scale + f.blank, f.absent, f.coupled)


class _Regular(NamedTuple):
    """Constants that make a Fisher matrix F regular: F ∘ unit + shift."""

    unit: Tensor  # (p, p) gives F the unit diagonal; 0 where F has no information
    shift: Tensor  # (p, p) projector on the null space, 1 where there is no information
    scale: Tensor  # (p, p) takes the inverse back; 0 where it is lost
    blank: Tensor  # (p, p) inf on the diagonal where it is lost
    absent: Tensor
    coupled: Tensor


def regular(information: Tensor, eps: float) -> _Regular:
    """Return what gives a Fisher matrix the unit diagonal and takes its null space.

    With P the projector on the null space of the scaled matrix R, R + P is invertible,
    and where P eⱼ = 0 its inverse holds the exact bound of parameter j: R y = eⱼ has a
    solution with P y = 0, so (R + P) y = eⱼ. That stays true when R moves and P does
    not, so P and the scaling are constants of every derivative. Where F is not finite
    they are NaN, and so are all derivatives.

    Returns:
        The constants.
    """
    return _Regular(*_levels.apply(_CONSTANTS, eps, information.detach()))


def tolerance(eps: float, size: int) -> float:
    """Return what a regular matrix of unit diagonal has as its least eigenvalue."""
    return _ROUNDING * eps * size


def _analysed(eps: float, information: Tensor) -> tuple[Tensor, ...]:
    """Analyse matrices (…, p, p) that no transform follows."""
    size = information.shape[-1]
    eye = torch.eye(size, dtype=information.dtype, device=information.device)
    least = tolerance(eps, size)
    diagonal = information.diagonal(dim1=-2, dim2=-1)
    root = diagonal.rsqrt()
    unit = root.unsqueeze(-1) * root.unsqueeze(-2)
    scaled = information * unit
    if not concrete(information) or not _regular_already(scaled - least * eye):
        return _singular(information, eye, least)
    none = diagonal < 0
    nought = torch.zeros_like(information)
    return unit, nought, unit.clone(), nought.clone(), none, none.clone()


def _regular_already(reduced: Tensor) -> bool:
    """Tell whether all matrices are positive definite, which is soon found out."""
    failed = torch.linalg.cholesky_ex(reduced)[1]
    return not failed.any() and bool(reduced.sum().isfinite())


def _singular(information: Tensor, eye: Tensor, tolerance: float) -> tuple[Tensor, ...]:
    # eigh raises for a whole batch that holds one NaN
    finite = information.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    safe = torch.where(finite, information, eye)
    diagonal = safe.diagonal(dim1=-2, dim2=-1)
    absent = diagonal <= 0
    root = torch.where(absent, 0.0, diagonal.rsqrt())
    unit = root.unsqueeze(-1) * root.unsqueeze(-2)
    own = torch.diag_embed(absent.to(unit.dtype))
    values, vectors = torch.linalg.eigh(safe * unit + own)
    lasting = torch.where(values <= tolerance, 1.0, values).amin(-1, keepdim=True)
    null = vectors * (values <= tolerance).unsqueeze(-2)
    projector = null @ null.mT
    # rounding turns a null vector by tolerance / (distance to the other eigenvalues)
    turned = (tolerance / lasting).square().clamp_max(tolerance)
    coupled = projector.diagonal(dim1=-2, dim2=-1) > turned
    lost = absent | coupled
    poison = torch.where(finite, 1.0, math.nan)
    kept = torch.where(lost.unsqueeze(-1) | lost.unsqueeze(-2), 0.0, unit)
    blank = torch.diag_embed(torch.where(lost, math.inf, 0.0))
    return unit * poison, projector + own, kept * poison, blank, absent, coupled


def _value(eps: float, information: Tensor) -> Any:
    return opaque(_analysed, eps, information)


def _mapped(
    eps: float, _: int, dims: Sequence[int | None], inputs: Sequence[Tensor]
) -> Any:
    dim = dims[0] or 0
    out = _levels.apply(_CONSTANTS, eps, inputs[0].movedim(dim, 0))
    return out, (0,) * len(out)


_CONSTANTS = Family(_value, push=no_derivative, pull=no_derivative, vmap=_mapped)
