"""Linear algebra of small symmetric problems, one for each voxel of a batch."""

import functools

import torch
from torch import Tensor


def gram(acting: Tensor, rows: Tensor) -> Tensor:
    """Return Σ acting hᵀh: one product with the rows' squares, half of them.

    Args:
        acting: (..., m) weights.
        rows: (m, n), or (..., m, n).

    Returns:
        (..., n, n).
    """
    upper, lower, place = _triangle(rows.shape[-1], rows.device)
    squares = rows.index_select(-1, upper) * rows.index_select(-1, lower)
    if rows.ndim == 2:
        half = acting @ squares
    else:
        half = (acting.unsqueeze(-2) @ squares).squeeze(-2)
    size = (rows.shape[-1], rows.shape[-1])
    return half.index_select(-1, place).unflatten(-1, size)


@functools.cache
def _triangle(n: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    upper, lower = torch.tril_indices(n, n, device=device)
    number = torch.arange(len(upper), device=device)
    place = torch.empty(n, n, dtype=torch.long, device=device)
    place = place.index_put((upper, lower), number).index_put((lower, upper), number)
    return upper, lower, place.flatten()


def factor(matrix: Tensor) -> Tensor:
    """Return the Cholesky factor; a matrix that has none spoils no other."""
    return torch.linalg.cholesky_ex(matrix)[0]


def back(root: Tensor, b: Tensor) -> Tensor:
    """Solve with a Cholesky factor: (..., n, n), (..., n)."""
    return torch.cholesky_solve(b.unsqueeze(-1), root).squeeze(-1)


def amplitudes(rows: Tensor, x: Tensor) -> Tensor:
    """Return H x of a batch: rows (m, n) or (batch, m, n), x (batch, n)."""
    return x @ rows.mT if rows.ndim == 2 else (rows @ x.unsqueeze(-1)).squeeze(-1)


def pulled(rows: Tensor, y: Tensor) -> Tensor:
    """Return Hᵀ y of a batch: rows (m, n) or (batch, m, n), y (batch, m)."""
    return y @ rows if rows.ndim == 2 else (y.unsqueeze(-2) @ rows).squeeze(-2)


def pick(x: Tensor, live: Tensor, axes: int) -> Tensor:
    """Return the entries of a batch, or all of a tensor that all problems share."""
    return x[live] if x.ndim > axes else x
