"""The lowest modes of a pencil by dense linear algebra, and where to cut them."""

import torch
from torch import Tensor

_GAP = 1e-6  # of the eigenvalue above; degenerate ones agree to about 1e-12


def dense_modes(K: Tensor, M: Tensor) -> tuple[Tensor, Tensor]:
    """Return all eigenvectors and eigenvalues of K v = λ M v, VᵀMV = 1, ascending."""
    C = torch.linalg.cholesky_ex(M)[0]
    half = torch.linalg.solve_triangular(C, K, upper=False)
    A = torch.linalg.solve_triangular(C, half.mT, upper=False)
    A = (A + A.mT) / 2
    if not A.isfinite().all():  # eigh would raise, for a whole batch of meshes
        return torch.full_like(A, torch.nan), torch.full_like(A[0], torch.nan)
    lam, W = torch.linalg.eigh(A)
    return torch.linalg.solve_triangular(C.mT, W, upper=True), lam


def cut(lam: Tensor, wanted: int) -> int | None:
    """Return the first gap of a spectrum at or above a wanted number of modes.

    A cut inside a group of equal eigenvalues has no derivative.

    Args:
        lam: (known,) ascending eigenvalues, more than are wanted.
        wanted: number of modes.

    Returns:
        The number of modes to keep; ``None``: no gap among those known.
    """
    for count in range(wanted, len(lam)):
        low, high = float(lam[count - 1]), float(lam[count])
        if high - low > _GAP * abs(high):
            return count
    return None
