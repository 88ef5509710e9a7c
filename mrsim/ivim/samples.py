"""Some voxels of an image, from whose fits noise and priors are learnt."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from mrsim.fit import Fit
from mrsim.ivim.fits import fitter
from mrsim.ivim.problem import Problem
from mrsim.ivim.starts import starter
from mrsim.ivim.voxels import chosen

_VOXELS = 3000  # at least; all, if there are fewer than twice as many


class Sample(NamedTuple):
    """Some voxels of an image."""

    at: Tensor  # (voxel,) where they are
    data: Tensor  # (voxel, sample)
    fit: Fit  # as of `fits.fitter`


def some_voxels(
    problem: Problem,
    data: Tensor,
    known: Mapping[str, Tensor],
) -> Sample:
    """Fit some voxels that can be fitted, evenly chosen, by least squares.

    Args:
        problem: what is fitted.
        data: (..., sample).
        known: name → () or (voxel,).

    Returns:
        The voxels.

    Raises:
        ValueError: there are none.
    """
    flat = data.reshape(-1, data.shape[-1])
    usable = flat.isfinite().all(-1) & (flat != 0).any(-1)
    good = usable.nonzero()[:, 0]
    if not len(good):
        raise ValueError(
            f"ivim: none of the {len(flat)} voxels has finite, non-zero signals to"
            f" learn the noise or a prior from"
        )
    at = good[:: max(1, len(good) // _VOXELS)]
    y, parts = flat[at], chosen(known, at, len(at))
    start = starter(problem, known)(y, parts, 1)[0][0]
    return Sample(at, y, fitter(problem)(y, start))


def at_sample(sigma: Tensor, sample: Sample) -> Tensor:
    """Return a number (), or a map (voxel,), at the chosen voxels."""
    return sigma[sample.at] if sigma.ndim else sigma.expand(len(sample.at))
