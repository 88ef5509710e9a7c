"""Which echo of a train fills which line of k-space."""

import torch
from torch import Tensor


def linear(lines: int, echoes: int) -> Tensor:
    """Fill k-space from one edge to the other, neighbouring lines by one echo.

    Args:
        lines: number of phase-encoding lines.
        echoes: number of echoes of the train.

    Returns:
        (line,) the echo of each line, from 0; line ``lines // 2`` is the centre.

    >>> from mrsim import image
    >>> image.linear(8, 4)
    tensor([0, 0, 1, 1, 2, 2, 3, 3])
    """
    return torch.arange(lines) * echoes // lines


def centric(lines: int, echoes: int) -> Tensor:
    """Fill k-space from its centre outwards: the first echo gives the contrast.

    Args:
        lines: number of phase-encoding lines.
        echoes: number of echoes of the train.

    Returns:
        (line,) the echo of each line, from 0; line ``lines // 2`` is the centre.

    >>> from mrsim import image
    >>> image.centric(8, 4)
    tensor([3, 2, 1, 0, 0, 1, 2, 3])
    """
    distance = (torch.arange(lines) - lines // 2 + 0.25).abs()
    rank = torch.empty(lines, dtype=torch.int64).scatter(
        0, distance.argsort(), torch.arange(lines)
    )
    return rank * echoes // lines
