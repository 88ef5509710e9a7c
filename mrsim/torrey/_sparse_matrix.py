"""Sparse matrices from the blocks of elements, as constants (scipy)."""

import hashlib
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from mrsim._check import require

_PATTERNS: OrderedDict[bytes, tuple[Any, Any, Any]] = OrderedDict()
_MOST_KEPT = 2


def sparse_matrix(places: list[Any], arrays: list[Any], size: int) -> Any:
    """Add real blocks up to a sparse matrix.

    Args:
        places: (block, side) dofs of every part.
        arrays: (block, side, side) matrices of every part.
        size: number of dofs.

    Returns:
        The matrix, in compressed columns.
    """
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
        torch.from_numpy(sparse_matrix(places, list(x), len(v)) @ v)
        for x in zip(*flat, strict=True)
    ]
    return torch.stack(made).reshape(*stack, *V.shape).to(V)


def factors(A: Any) -> Any:
    """Factorise a symmetric sparse matrix without pivoting: A = L·U, U = D·Lᵀ."""
    linalg = require("scipy.sparse.linalg", "opt")
    return linalg.splu(
        A.tocsc(),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
