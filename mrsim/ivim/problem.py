"""What all voxels of a fit have in common, and the checks of its input."""

from typing import NamedTuple

from torch import Tensor

from mrsim._check import check_floats
from mrsim.ivim import ordered
from mrsim.ivim._limits import Bounds, Box, limits
from mrsim.ivim.acquisition import Acquisition, check_data
from mrsim.ivim.voxels import Known, as_map


class Problem(NamedTuple):
    """What all voxels of a fit have in common."""

    model: type
    box: Box  # bounds of the unknowns
    names: tuple[str, ...]  # of the diffusivities that need an order
    acquisition: Acquisition


def pose(
    where: str,
    data: Tensor,
    acquisition: Acquisition,
    model: type,
    bounds: Bounds | None,
    fixed: Known | None,
) -> tuple[Problem, dict[str, Tensor]]:
    """Check the input of a fit.

    Args:
        where: the function that asks, for messages.
        data: (..., sample).
        acquisition: the samples.
        model: the record's class.
        bounds: of unknowns.
        fixed: known fields.

    Returns:
        The problem, and the known fields as (), or (voxel,) where they are maps.

    Raises:
        ValueError: something does not fit together.
    """
    check_floats(f"ivim.{where}", data=data, b=acquisition.b)
    check_data(data, acquisition)
    known = {n: as_map(where, n, x, data) for n, x in (fixed or {}).items()}
    box = limits(bounds, model, known)
    return Problem(model, box, ordered.chain(box), acquisition), known
