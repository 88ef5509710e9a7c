"""Directions and quadrature on the sphere."""

import functools
import math

import torch
from torch import Tensor


@functools.cache
def hemisphere(count: int) -> Tensor:
    """Spread directions evenly over a hemisphere, one of each ± pair.

    A Fibonacci lattice: zₖ = (k + ½)/n, azimuth k times the golden angle.

    Args:
        count: how many.

    Returns:
        (count, 3) unit vectors, float64.

    Reference:
        Swinbank and Purser 2006, Q J R Meteorol Soc 132:1769.

    >>> hemisphere(300).shape
    torch.Size([300, 3])
    """
    k = torch.arange(count, dtype=torch.float64)
    z = (k + 0.5) / count
    azimuth = k * (math.pi * (3 - math.sqrt(5)))
    radius = (1 - z * z).sqrt()
    return torch.stack([radius * azimuth.cos(), radius * azimuth.sin(), z], -1)


@functools.cache
def gauss(count: int) -> tuple[Tensor, Tensor]:
    """Return the nodes and weights of Gauss-Legendre quadrature on (−1, 1).

    They are the eigenvalues, and from the eigenvectors' first entries, of the
    recurrence's matrix (Golub and Welsch 1969, Math Comput 23:221).

    Args:
        count: of nodes; exact for polynomials of degree 2 count − 1.

    Returns:
        (count,) nodes and (count,) weights, float64.
    """
    k = torch.arange(1, count, dtype=torch.float64)
    beside = k / (4 * k * k - 1).sqrt()
    matrix = torch.diag(beside, 1) + torch.diag(beside, -1)
    nodes, vectors = torch.linalg.eigh(matrix)
    return nodes, 2 * vectors[0] ** 2
