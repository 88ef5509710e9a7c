"""The diffusion weighting of a series of volumes."""

from typing import Any

import torch
from torch import Tensor

from mrsim._check import check_floats, check_shapes
from mrsim.tree import record


@record
class Scheme:
    """The gradient table of a diffusion series, in the scanner frame."""

    b: Tensor  # (volume,) diffusion weighting [s/mm²]
    directions: Tensor  # (volume, 3) unit vectors [1]; any where b = 0


def check_scheme(where: str, scheme: Any, volumes: int) -> None:
    """Require a scheme of as many volumes as the data have.

    Args:
        where: the function that asks, for the message.
        scheme: the record.
        volumes: of the data.

    Raises:
        ValueError: a shape is wrong.
    """
    check_floats(where, b=scheme.b, directions=scheme.directions)
    sizes = check_shapes(where, scheme, b="volume", directions="volume axis")
    if sizes["axis"] != 3 or sizes["volume"] != volumes:
        raise ValueError(
            f"{where}: {volumes} volumes need b of shape ({volumes},) and directions"
            f" of shape ({volumes}, 3), got {tuple(scheme.b.shape)} and"
            f" {tuple(scheme.directions.shape)}"
        )


def shells(b: Tensor, width: float = 80.0) -> tuple[Tensor, Tensor]:
    """Sort b values into shells: a new one begins after a gap above ``width``.

    Args:
        b: (volume,) [s/mm²], concrete.
        width: the gap [s/mm²].

    Returns:
        The mean b of each shell, rising, and (volume,) the shell of each volume.

    >>> import torch
    >>> shells(torch.tensor([0.0, 995.0, 1005.0, 3000.0, 5.0]))
    (tensor([2.5000e+00, 1.0000e+03, 3.0000e+03]), tensor([0, 1, 1, 2, 0]))
    """
    ordered, order = b.sort()
    step = torch.cat([ordered.new_zeros(1), ordered.diff()]) > width
    number = step.long().cumsum(0)
    which = torch.empty_like(number).index_copy(0, order, number)
    count = int(number[-1]) + 1
    means = torch.stack([b[which == k].mean() for k in range(count)])
    return means, which


def weighted(scheme: Scheme, least: float = 10.0) -> Tensor:
    """Return the indices of the volumes that are diffusion weighted.

    Args:
        scheme: concrete.
        least: b above which a volume counts [s/mm²].

    Returns:
        (weighted,) indices.

    Raises:
        ValueError: no volume is.

    >>> weighted(Scheme(b=[0.0, 1e3], directions=[[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))
    tensor([1])
    """
    found = (scheme.b > least).nonzero()[:, 0]
    if not len(found):
        raise ValueError(
            f"no volume has b above {least:g} s/mm²; is b in s/mm², and given per"
            f" volume?"
        )
    return found
