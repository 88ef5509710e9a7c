"""How each kind of image gives a direction: peak, eigenvector, nearest vector.

In all three the direction u is a unit vector along q(c, u), c the numbers at the point:
q = ∇F for an FOD, D u for a tensor, the chosen vector for FACT. So with A the tangent
part of (q·u) 1 − ∂q/∂u, du = A⁻¹ dq at fixed u: the implicit function theorem.
The batch is the last axis everywhere.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mrsim.tract.peak import dot, search
from mrsim.tract.polynomial import (
    apply_matrix,
    curvature,
    degree,
    gradient,
    gradient_transpose,
)

_PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
_SQUARE = [0, 3, 4, 3, 1, 5, 4, 5, 2]
GO, IMAGE, MODEL, CURVATURE, MASK, EXCLUDED, INCLUDED, LENGTH = range(8)
REASONS = (
    "none",
    "left the image",
    "no direction above the cutoff",
    "angle too large",
    "left the mask",
    "entered an excluded region",
    "all included regions visited",
    "maximum length",
)


class Rule(NamedTuple):
    """A kind of image and how sharply its streamlines may turn; hashable."""

    kind: str  # "fod", "tensor" or "vectors"
    shape: tuple[int, int, int]
    count: int  # numbers in a voxel
    cutoff: float
    cosine: float
    polish: int


def find(rule: Rule, c: Tensor, model: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Find the direction that continues another.

    Args:
        rule: kind and criteria.
        c (N, B): the numbers at the points.
        model (7, N, B or 1): of the tensor fit.
        u (3, B): unit vectors to start from.

    Returns:
        Directions (3, B) and the reason (B,) to stop, `GO` for none.
    """
    if rule.kind == "vectors":
        return _collinear(rule, c, u)
    if rule.kind == "tensor":
        made, size = _eigenvector(_tensor(c, model))
        made = torch.where(dot(made, u) < 0, -made, made)
    else:
        made, size = search(c, u, rule.polish)
    return made, torch.where(size >= rule.cutoff, GO, MODEL)


def stationary(
    rule: Rule, c: Tensor, model: Tensor, u: Tensor
) -> tuple[Tensor, Tensor]:
    """Return q (3, B) and ∂q/∂u (3, 3, B)."""
    if rule.kind == "fod":
        H = curvature(c, u)
        return apply_matrix(H, u) / (degree(rule.count) - 1), H
    if rule.kind == "tensor":
        D = _tensor(c, model)
        return apply_matrix(D, u), D
    q = (c.unflatten(0, (-1, 3)) * _pick(c, u)[:, None]).sum(0)
    return q, torch.zeros_like(q * q[:, None])


def moved(
    rule: Rule,
    c: Tensor,
    model: Tensor,
    u: Tensor,
    dc: Tensor | None,
    dmodel: Tensor | None,
) -> Tensor:
    """Return dq (3, B) at fixed u, for a change of c (N, B) and of model (7, N, B)."""
    if rule.kind == "fod" and dc is not None:
        return gradient(dc, u)
    if rule.kind == "vectors" and dc is not None:
        return (dc.unflatten(0, (-1, 3)) * _pick(c, u)[:, None]).sum(0)
    dD = torch.zeros_like(c[:6])
    if dc is not None and rule.kind == "tensor":
        dD = dD + _rows(model, dc * _log_slope(c))
    if dmodel is not None and rule.kind == "tensor":
        dD = dD + _rows(dmodel, _logs(c))
    return apply_matrix(dD[_SQUARE].unflatten(0, (3, 3)), u)


def pulled(
    rule: Rule, c: Tensor, model: Tensor, u: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the transpose of `moved` along y (3, B): for c (N, B), model (7, N, B)."""
    none = torch.zeros_like(model)
    if rule.kind == "fod":
        return gradient_transpose(u, y, degree(rule.count)), none
    if rule.kind == "vectors":
        return (_pick(c, u)[:, None] * y).flatten(0, 1), none
    six = [y[i] * u[j] + (y[j] * u[i] if i != j else 0) for i, j in _PAIRS]
    D = torch.stack([*six, torch.zeros_like(y[0])])
    return (D[:, None] * model).sum(0) * _log_slope(c), D[:, None] * _logs(c)


def tangent_inverse(q: Tensor, M: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Solve A x = v − (u·v) u for x ⊥ u, A the tangent part of (q·u) 1 − M.

    Args:
        q (3, B): as from `stationary`.
        M (3, 3, B): symmetric.
        u (3, B): unit vectors.
        v (3, B): right-hand sides.

    Returns:
        (3, B).
    """
    e, f = frame(u)
    size = dot(q, u)
    Me, Mf = apply_matrix(M, e), apply_matrix(M, f)
    ee, ef, ff = size - dot(Me, e), -dot(Me, f), size - dot(Mf, f)
    a, b = dot(v, e), dot(v, f)
    det = ee * ff - ef * ef
    return ((ff * a - ef * b) * e + (ee * b - ef * a) * f) / det


def frame(u: Tensor) -> tuple[Tensor, Tensor]:
    """Return two unit vectors orthogonal to u and each other (Duff et al. 2017)."""
    x, y, z = u
    sign = torch.where(z >= 0, 1.0, -1.0).to(u)
    a = -1 / (sign + z)
    b = x * y * a
    e = torch.stack([1 + sign * x * x * a, sign * b, -sign * x])
    return e, torch.stack([b, sign + y * y * a, -y])


def _tensor(c: Tensor, model: Tensor) -> Tensor:
    """Return the tensor (3, 3, B) of signals (n, B), MRtrix's unweighted fit."""
    return _rows(model, _logs(c))[_SQUARE].unflatten(0, (3, 3))


def _rows(model: Tensor, x: Tensor) -> Tensor:
    return torch.stack([(row * x).sum(0) for row in model[:6]])


def _logs(c: Tensor) -> Tensor:
    """Return −log c, 0 where c is not positive."""
    return torch.where(c > 0, -torch.where(c > 0, c, 1.0).log(), 0.0)


def _log_slope(c: Tensor) -> Tensor:
    return torch.where(c > 0, -1 / torch.where(c > 0, c, 1.0), 0.0)


def _eigenvector(D: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first eigenvector (3, B) and the fractional anisotropy (B,)."""
    matrix = D.movedim(-1, 0)
    fine = matrix.isfinite().all(-1).all(-1)
    values, vectors = torch.linalg.eigh(torch.where(fine[:, None, None], matrix, 0.0))
    spread = ((values - values.mean(-1, keepdim=True)) ** 2).sum(-1)
    power = (values * values).sum(-1)
    size = (1.5 * spread / torch.where(power > 0, power, 1.0)).sqrt()
    return vectors[..., 2].t(), torch.where(fine, size, 0.0)


def _unit_vectors(c: Tensor) -> tuple[Tensor, Tensor]:
    each = c.unflatten(0, (-1, 3))  # (K, 3, B)
    size = (each * each).sum(1).sqrt()
    return each / torch.where(size > 0, size, 1.0)[:, None], size


def _collinear(rule: Rule, c: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    units, size = _unit_vectors(c)
    cosine = (units * u).sum(1).nan_to_num()
    best = cosine.abs().argmax(0, keepdim=True)
    made = units.gather(0, best[:, None].expand(1, 3, -1))[0]
    cosine, size = cosine.gather(0, best)[0], size.gather(0, best)[0]
    good = (cosine.abs() >= rule.cosine) & (size >= rule.cutoff) & (size > 0)
    return torch.where(cosine < 0, -made, made), torch.where(good, GO, MODEL)


def _pick(c: Tensor, u: Tensor) -> Tensor:
    """Return ±1 (K, B) at the vector that is most collinear with u, 0 elsewhere."""
    cosine = (_unit_vectors(c)[0] * u).sum(1)
    best = cosine.abs().argmax(0)
    which = torch.arange(cosine.shape[0], device=c.device)[:, None] == best
    return which.to(c) * torch.where(cosine < 0, -1.0, 1.0).to(c)
