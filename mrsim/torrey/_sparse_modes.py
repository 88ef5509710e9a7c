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

_KEPT: OrderedDict[bytes, Pencil] = OrderedDict()
_PATTERNS: OrderedDict[bytes, tuple[Any, Any, Any]] = OrderedDict()
_MOST_KEPT = 2
_TOLERANCE = 1e-11
_MOST_STEPS = 500
_RUNS = 6
_FEW = 24  # modes for which a second factorisation does not pay
_BACKWARD = 1e-13  # backward error of a solution


def pencil(
    dofs: list[Tensor], size: int, mass: Tensor, diffusion: tuple[Tensor, ...]
) -> Pencil:
    """Assemble and factorise a pencil; the last two are remembered.

    Args:
        dofs: (block, side) of each part of K; M is of the first.
        size: number of dofs.
        mass: (block, side, side) of M.
        diffusion: (block, side, side) of each part of K.

    Returns:
        The pencil, shifted below its lowest eigenvalue, 0 or more.
    """
    arrays = [x.detach().cpu().double().numpy() for x in (mass, *diffusion)]
    places = [x.cpu().numpy() for x in dofs]
    digest = hashlib.sha256()
    for x in (*places, *arrays):
        digest.update(x.tobytes())
    key = digest.digest()
    if key not in _KEPT:
        M = _sparse(places[:1], arrays[:1], size)
        K = _sparse(places, arrays[1:], size)
        # far below the resolved modes, but not so far that rounding of 1/λ is felt
        shift = -1e-4 * float(K.diagonal().sum() / M.diagonal().sum())
        _KEPT[key] = Pencil(K, M, _factors(K, M, shift), shift)
        if len(_KEPT) > _MOST_KEPT:
            _KEPT.popitem(last=False)
    _KEPT.move_to_end(key)
    return _KEPT[key]


def _sparse(places: list[Any], arrays: list[Any], size: int) -> Any:
    numpy, sparse = require("numpy", "opt"), require("scipy.sparse", "opt")
    where, rows, starts = _pattern(places, size)
    entries = numpy.concatenate([a.ravel() for a in arrays])
    data = numpy.bincount(where, entries, len(rows))
    return sparse.csc_matrix((data, rows, starts), (size, size))


def _pattern(places: list[Any], size: int) -> tuple[Any, Any, Any]:
    """Return the entry each block entry adds to, and rows and starts of columns."""
    numpy = require("numpy", "opt")
    digest = hashlib.sha256(str(size).encode())
    for x in places:
        digest.update(x.tobytes())
    key = digest.digest()
    if key not in _PATTERNS:
        spots = [(p[:, None, :] * size + p[:, :, None]).ravel() for p in places]
        filled, where = numpy.unique(numpy.concatenate(spots), return_inverse=True)
        starts = numpy.searchsorted(filled, numpy.arange(size + 1) * size)
        rows = (filled % size).astype(numpy.int32)
        _PATTERNS[key] = where.astype(numpy.int32), rows, starts.astype(numpy.int32)
        if len(_PATTERNS) > _MOST_KEPT:
            _PATTERNS.popitem(last=False)
    _PATTERNS.move_to_end(key)
    return _PATTERNS[key]


def product(parts: list[tuple[Tensor, Tensor]], V: Tensor) -> Tensor:
    """Return what `assembly.apply` does, of constants, by sparse matrices."""
    places = [p.cpu().numpy() for p, _ in parts]
    stack = parts[0][1].shape[:-3]
    flat = [x.detach().cpu().reshape(-1, *x.shape[-3:]).numpy() for _, x in parts]
    v = V.detach().cpu().numpy()
    made = [
        torch.from_numpy(_sparse(places, list(x), len(v)) @ v)
        for x in zip(*flat, strict=True)
    ]
    return torch.stack(made).reshape(*stack, *V.shape).to(V)


def _factors(K: Any, M: Any, shift: float) -> Any:
    linalg = require("scipy.sparse.linalg", "opt")
    return linalg.splu(
        (K - shift * M).tocsc(),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )


def count_below(p: Pencil, limit: float) -> int:
    """Return the number of eigenvalues below a limit, by the inertia of K − limit·M."""
    return int((_factors(p.K, p.M, limit).U.diagonal() < 0).sum())


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
        shifted = p if seed else _inside(p, count)
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


def _inside(p: Pencil, count: int) -> Pencil:
    """Shift to where about half of the modes lie below, which inertia tells."""
    numpy = require("numpy", "opt")
    if count < _FEW:
        return p
    mean = float(p.K.diagonal().sum() / p.M.diagonal().sum())
    shift = 0.8 * mean * (count / p.K.shape[0]) ** (2 / 3)  # Weyl's law
    for _ in range(4):
        factors = _factors(p.K, p.M, shift)
        below = int((factors.U.diagonal() < 0).sum())
        if 0.3 * count < below < 0.65 * count and _accurate(p, factors, shift):
            return Pencil(p.K, p.M, factors, shift, below)
        ratio = 0.47 * count / max(below, 1)
        shift *= float(numpy.clip(ratio, 0.05, 20.0)) ** (2 / 3)
    return p


def _accurate(p: Pencil, factors: Any, shift: float) -> bool:
    """Tell whether factors without pivoting are as good as those with it."""
    numpy = require("numpy", "opt")
    A = p.K - shift * p.M
    b = numpy.cos(numpy.arange(A.shape[0]) * 1.0)
    x = factors.solve(b)
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
    image = p.M @ all_

    def dual(r: Any) -> Any:
        return r - image @ (all_.T @ r)

    def precondition(r: Any) -> Any:
        z = p.factors.solve(r)
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
