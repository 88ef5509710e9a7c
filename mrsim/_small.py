"""Inverses of small matrices in Python's numbers, sooner than tensors are touched."""

from collections.abc import Sequence

Matrix = Sequence[Sequence[float]]


def inverse(matrix: Matrix, tolerance: float) -> list[list[float]] | None:
    """Invert a symmetric matrix that is regular beyond doubt.

    Args:
        matrix: (p, p).
        tolerance: what the eigenvalues of the matrix of unit diagonal must exceed.

    Returns:
        The inverse; ``None`` where it may be singular, indefinite or not finite.
    """
    size = range(len(matrix))
    if not all(matrix[i][i] > 0 for i in size):
        return None
    unit = [matrix[i][i] ** -0.5 for i in size]
    found = _swept([[matrix[i][j] * unit[i] * unit[j] for j in size] for i in size])
    # the trace of the inverse is more than the inverse of the least eigenvalue
    if found is None or not sum(found[i][i] for i in size) * tolerance < 1:
        return None
    return [[found[i][j] * unit[i] * unit[j] for j in size] for i in size]


def _swept(matrix: list[list[float]]) -> list[list[float]] | None:
    """Invert by Gauss-Jordan elimination; None where a pivot is not positive."""
    for k in range(len(matrix)):
        row = matrix[k]
        if not row[k] > 0:
            return None
        pivot, row[k] = 1 / row[k], 1.0
        matrix[k] = row = [x * pivot for x in row]
        for i, other in enumerate(matrix):
            if i != k:
                factor, other[k] = other[k], 0.0
                pairs = zip(other, row, strict=True)
                matrix[i] = [x - factor * y for x, y in pairs]
    return matrix


def conjugated(matrix: Matrix, weights: Sequence[float]) -> list[list[float]]:
    """Return A diag(w) A of a symmetric A."""
    turned = [[x * w for x, w in zip(row, weights, strict=True)] for row in matrix]
    return [
        [sum(x * y for x, y in zip(a, b, strict=True)) for b in matrix] for a in turned
    ]
