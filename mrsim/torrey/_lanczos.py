"""Block Lanczos of a shifted and inverted pencil, orthogonal to rounding (numpy).

With A = K − σM the operator A⁻¹M is symmetric in the product of M, with the values
θ = 1/(λ − σ). A shift inside the wanted part of the spectrum takes a third fewer steps
than one below, and its inertia counts the modes below it. The basis is not restarted
and is kept orthonormal by one full pass after the local recurrence: its products are
those of large matrices. A block finds as many modes of a group of equal ones as it has
columns.
"""

from typing import Any, NamedTuple

from mrsim._check import require

_WIDE, _NARROW = 8, 4  # columns of a block: about a shift inside, and below
_TOLERANCE = 1e-13  # of a residual, relative to θ
_NOTHING = 1e-12  # of what a column was before it was made orthogonal: rounding


class Pencil(NamedTuple):
    """K and M in compressed columns, and the factors of K − σM."""

    K: Any
    M: Any
    factors: Any  # None: not needed yet, see `_sparse_modes.factorised`
    shift: float
    below: int = 0  # number of eigenvalues below the shift
    key: bytes = b""  # under which it is remembered


def lanczos(p: Pencil, found: Any, count: int, seed: int) -> Any:
    """Return the lowest modes that are M-orthogonal to those found.

    Args:
        p: the pencil; where modes are found, shifted below its lowest eigenvalue.
        found: (dof, found) orthonormal modes that are known.
        count: how many more.
        seed: of the start.

    Returns:
        (dof, count) modes; fewer where the start reaches no more.
    """
    numpy = require("numpy", "opt")
    size, first = found.shape
    block = _WIDE if p.below else _NARROW
    room = min(size - first, 3 * count + 100) + block
    Q, T = numpy.empty((size, first + room), order="F"), numpy.zeros((room, room))
    Q[:, :first] = found
    start = numpy.random.default_rng(seed).standard_normal((size, block))
    q, image, R = _cleared(p, found, p.factors.solve(p.M @ start), 0.0)
    most = 0.0
    m, look = 0, 2 * count + (9 if p.below else 26) * block
    while True:
        end, width = m + q.shape[1], q.shape[1]
        if end > room:
            Q = numpy.concatenate([Q, numpy.empty_like(Q)], 1)
            T = numpy.pad(T, (0, room))
            room *= 2
        Q[:, first + m : first + end] = q
        W = p.factors.solve(image)
        alpha = image.T @ W
        T[m:end, m:end] = (alpha + alpha.T) / 2
        W, most = W - q @ alpha, max(most, (alpha**2).sum())
        if m:
            T[m:end, m - R.shape[1] : m], T[m - R.shape[1] : m, m:end] = R, R.T
            W = W - Q[:, first + m - R.shape[1] : first + m] @ R.T
        q, image, R = _cleared(p, Q[:, : first + end], W, most)
        m = end
        if m >= look or not q.shape[1]:
            good, S = _converged(p, T[:m, :m], R, count)
            if good == count or not q.shape[1]:
                return Q[:, first : first + m] @ S[:, :good]
            look = m + max(2 * width, count - good)


def _cleared(p: Pencil, Q: Any, W: Any, scale: float) -> tuple[Any, Any, Any]:
    """Make columns orthonormal to a basis and each other; leave out dependent ones.

    Rounding is judged by ``scale``, the square of the largest value of the operator.

    Returns:
        Orthonormal columns q, M q, and R of W = q R + (the basis).
    """
    numpy = require("numpy", "opt")
    image = p.M @ W
    least = _NOTHING**2 * max((W * image).sum(0).max(), scale)
    free = len(Q) - Q.shape[1]
    W = W - Q @ (Q.T @ image)
    image, R = p.M @ W, numpy.eye(W.shape[1])
    for _ in range(2):
        d, U = numpy.linalg.eigh(W.T @ image)
        keep = (d > least) & (numpy.arange(len(d)) >= len(d) - free)
        root, U, least = numpy.sqrt(d[keep]), U[:, keep], 0.0
        W, image, R = (W @ U) / root, (image @ U) / root, (root[:, None] * U.T) @ R
    return W, image, R


def _converged(p: Pencil, T: Any, R: Any, count: int) -> tuple[int, Any]:
    """Return how many of the lowest modes have converged, and all vectors."""
    numpy = require("numpy", "opt")
    theta, S = numpy.linalg.eigh(T)
    lam = p.shift + 1 / theta
    # no λ is negative: what seems so lies in the gap of 1/(λ − σ) and is no mode yet
    unborn = lam < -1e-6 * abs(p.shift)
    order = numpy.argsort(numpy.where(unborn, numpy.inf, lam))
    theta, S = theta[order], S[:, order]
    last = R @ S[len(T) - R.shape[1] :, :count]
    bad = numpy.linalg.norm(last, axis=0) > _TOLERANCE * numpy.abs(theta[:count])
    bad |= unborn[order][:count]
    good = int(numpy.argmax(bad)) if bad.any() else min(count, len(T))
    # until all modes below the shift are there, none above it counts
    low = int((theta[:good] < 0).sum())
    return (good if low == p.below else min(good, low)), S
