"""The lowest modes of a pencil by block Lanczos, counted by inertia (scipy).

The number of eigenvalues below a shift is the number of negative pivots of K − μM
(Sylvester): a mode that Lanczos missed is found out, never left out in silence.
"""

import hashlib
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from mrsim._check import require
from mrsim.torrey._lanczos import Pencil, lanczos
from mrsim.torrey._sparse_matrix import factors, sparse_matrix

_KEPT: OrderedDict[bytes, Pencil] = OrderedDict()
_MOST_KEPT = 2
_TOLERANCE = 1e-11
_MOST_STEPS = 500
_RUNS = 6
_FEW = 24  # modes for which a second factorisation does not pay
_BACKWARD = 1e-13  # backward error of a solution


def pencil(
    dofs: list[Tensor], size: int, mass: Tensor, diffusion: tuple[Tensor, ...]
) -> Pencil:
    """Assemble a pencil; the last two are remembered.

    Args:
        dofs: (block, side) of each part of K; M is of the first.
        size: number of dofs.
        mass: (block, side, side) of M.
        diffusion: (block, side, side) of each part of K.

    Returns:
        The pencil, with a shift below its lowest eigenvalue, 0 or more.
    """
    arrays = [x.detach().cpu().double().numpy() for x in (mass, *diffusion)]
    places = [x.cpu().numpy() for x in dofs]
    digest = hashlib.sha256()
    for x in (*places, *arrays):
        digest.update(x.tobytes())
    key = digest.digest()
    if key not in _KEPT:
        M = sparse_matrix(places[:1], arrays[:1], size)
        K = sparse_matrix(places, arrays[1:], size)
        # far below the resolved modes, but not so far that rounding of 1/λ is felt
        shift = -1e-4 * float(K.diagonal().sum() / M.diagonal().sum())
        _KEPT[key] = Pencil(K, M, None, shift, key=key)
        if len(_KEPT) > _MOST_KEPT:
            _KEPT.popitem(last=False)
    _KEPT.move_to_end(key)
    return _KEPT[key]


def factorised(p: Pencil) -> Pencil:
    """Return the pencil with its factors, made once and remembered."""
    if p.factors is None:
        p = p._replace(factors=factors(p.K - p.shift * p.M))
        if p.key in _KEPT:
            _KEPT[p.key] = p
    return p


def count_below(p: Pencil, limit: float) -> int:
    """Return the number of eigenvalues below a limit, by the inertia of K − limit·M."""
    return int((factors(p.K - limit * p.M).U.diagonal() < 0).sum())


def sparse_modes(p: Pencil, count: int) -> tuple[Tensor, Tensor]:
    """Return the lowest modes, checked for completeness.

    Args:
        p: the pencil.
        count: how many, fewer than dofs.

    Returns:
        (dof, count) eigenvectors with VᵀMV = 1 and (count,) eigenvalues, ascending.

    Raises:
        ArithmeticError: Lanczos missed modes, and went on to miss them.
    """
    numpy = require("numpy", "opt")
    V, missed = numpy.empty((p.K.shape[0], 0)), count
    for seed in range(_RUNS):
        shifted = None if seed else _inside(p, count)
        shifted = shifted or factorised(p)
        V = numpy.concatenate([V, lanczos(shifted, V, missed, seed)], 1)
        lam, V = _ritz(p, V)
        lam, V = lam[:count], V[:, :count]
        missed = _missed(p, lam) + count - len(lam)
        if not missed:
            return torch.from_numpy(V), torch.from_numpy(lam)
    raise ArithmeticError(
        f"laplace: Lanczos missed some of the {count} lowest modes of {len(V)} dofs;"
        f" ask for a few more modes, or use method='dense'"
    )


def _inside(p: Pencil, count: int) -> Pencil | None:
    """Shift to where about half of the modes lie below, which inertia tells."""
    numpy = require("numpy", "opt")
    if count < _FEW:
        return None
    mean = float(p.K.diagonal().sum() / p.M.diagonal().sum())
    shift = 0.8 * mean * (count / p.K.shape[0]) ** (2 / 3)  # Weyl's law
    for _ in range(4):
        made = factors(p.K - shift * p.M)
        below = int((made.U.diagonal() < 0).sum())
        if 0.3 * count < below < 0.65 * count and _accurate(p, made, shift):
            return Pencil(p.K, p.M, made, shift, below)
        ratio = 0.47 * count / max(below, 1)
        shift *= float(numpy.clip(ratio, 0.05, 20.0)) ** (2 / 3)
    return None


def _accurate(p: Pencil, made: Any, shift: float) -> bool:
    """Tell whether factors without pivoting are as good as those with it."""
    numpy = require("numpy", "opt")
    A = p.K - shift * p.M
    b = numpy.cos(numpy.arange(A.shape[0]) * 1.0)
    x = made.solve(b)
    return bool(abs(A @ x - b).max() <= _BACKWARD * (abs(A) @ abs(x)).max())


def _ritz(p: Pencil, V: Any) -> tuple[Any, Any]:
    """Make modes M-orthonormal to rounding and sort them."""
    linalg = require("scipy.linalg", "opt")
    lam, W = linalg.eigh(V.T @ (p.K @ V), V.T @ (p.M @ V))
    return lam, V @ W


def _missed(p: Pencil, lam: Any) -> int:
    """Count modes that were missed below the highest clear gap in the upper half."""
    numpy = require("numpy", "opt")
    first = max(1, len(lam) // 2)
    gaps = numpy.diff(lam)[first - 1 :]
    at = first - 1 + int(numpy.argmax(gaps))
    return abs(count_below(p, float(lam[at] + lam[at + 1]) / 2) - at - 1)


def solve_above(
    p: Pencil, known: Tensor, above: Tensor, guards: Tensor, lam: Tensor, B: Tensor
) -> Tensor:
    """Return Σ v_j v_jᵀ b_c / (λ_j − λ_c) over all modes j that are not kept.

    The guard modes are summed; what lies above them is solved by conjugate gradients,
    preconditioned by the factors of K − σM.

    Args:
        p: the pencil.
        known: (dof, known) the modes that are kept and the guard modes.
        above: (dof, guard) the guard modes.
        guards: (guard,) their eigenvalues.
        lam: (column,) λ_c.
        B: (dof, column) right-hand sides.

    Returns:
        (dof, column) sums.

    Raises:
        ArithmeticError: conjugate gradients did not converge.
    """
    numpy = require("numpy", "opt")
    all_, V, b = (x.detach().cpu().double().numpy() for x in (known, above, B))
    top, low = (x.detach().cpu().double().numpy() for x in (guards, lam))
    X = V @ ((V.T @ b) / (top[:, None] - low))
    base = factorised(p).factors
    image = p.M @ all_

    def dual(r: Any) -> Any:
        return r - image @ (all_.T @ r)

    def precondition(r: Any) -> Any:
        z = base.solve(r)
        return z - all_ @ (image.T @ z)

    r = dual(b)
    z = precondition(r)
    d, Y = z, numpy.zeros_like(r)
    rz = (r * z).sum(0)
    goal = _TOLERANCE**2 * rz
    active = rz > 0
    for _ in range(_MOST_STEPS):
        if not active.any():
            return torch.from_numpy(X + Y).to(B)
        A = p.K @ d - low * (p.M @ d)
        down = numpy.where(active, (d * A).sum(0), 1.0)
        step = numpy.where(active, rz / down, 0.0)
        Y, r = Y + step * d, dual(r - step * A)
        z = precondition(r)
        new = (r * z).sum(0)
        d = z + numpy.where(active, new / numpy.where(rz > 0, rz, 1.0), 0.0) * d
        rz, active = new, active & (new > goal)
    raise ArithmeticError(
        f"laplace: the derivative of the modes did not converge in {_MOST_STEPS} steps;"
        f" take more modes, so that the gap above them is larger"
    )
