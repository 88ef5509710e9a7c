"""The posterior on a grid of parameters: the estimate that no other can beat."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from mrsim._check import check_floats, check_positive
from mrsim.fit.likelihood import noncentral_chi
from mrsim.ivim._signal import signal
from mrsim.ivim.acquisition import Acquisition, check_data
from mrsim.ivim.voxels import over_voxels
from mrsim.tree import get, names as field_names, only, put

_ENTRIES = 2**21  # of the table of voxels and grid points held at once


class Posterior(NamedTuple):
    """Mean and standard deviation of the posterior; leaves (...)."""

    mean: Any  # the points' record
    sd: Any  # the same, None in fields that do not vary


def grid_posterior(
    data: Tensor,
    acquisition: Acquisition,
    points: Any,
    *,
    sigma: float,
    weights: Tensor | None = None,
    coils: int = 0,
    free_S0: bool = False,
    progress: bool = False,
) -> Posterior:
    """Return the mean and standard deviation of the posterior on a grid.

    p(θ | data) ∝ p(θ) Π p(data | S(θ)) at the points θ, with any model and noise. Under
    the prior p, the mean has the least mean square error of all estimators.

    Args:
        data: (..., sample) signals of any voxels.
        acquisition: the samples of all voxels.
        points: the model's record with leaves (point,), as of `mrsim.grid`; midpoints
            of equal cells stand for a uniform prior.
        sigma: standard deviation of the noise [units of data].
        weights: (point,) prior probabilities, up to a factor; equal by default.
        coils: 0 Gaussian noise, 1 Rician, more: non-central chi.
        free_S0: integrate over S0 with a flat prior (Gaussian noise only), S0 of the
            points being 1.
        progress: show a progress bar (needs tqdm, extra ``demo``).

    Returns:
        Mean and standard deviation; NaN in voxels with NaN.

    Raises:
        ValueError: data and b do not match, sigma is not positive, or S0 is free and
            the noise not Gaussian.

    Reference:
        Orton 2014, Magn Reson Med 71:411.

    >>> import mrsim, torch
    >>> from mrsim import ivim
    >>> q = ivim.Acquisition(b=[0.0, 50.0, 200.0, 800.0])
    >>> one = ivim.Biexp(S0=1.0, f=0.1, Dp=0.02, D=0.001)
    >>> points = mrsim.grid(one, f=torch.linspace(0.0, 0.4, 41))
    >>> ivim.grid_posterior(ivim.signal(one, q), q, points, sigma=0.01).mean.f
    tensor(0.1000)
    """
    check_floats("ivim.grid_posterior", data=data, b=acquisition.b)
    check_data(data, acquisition, zero=False)
    check_positive("ivim.grid_posterior", sigma=sigma)
    if free_S0 and coils:
        raise ValueError(
            "ivim.grid_posterior: S0 is integrated over in closed form, for Gaussian"
            " noise only; make it an axis of the grid, or set coils=0"
        )
    present = [n for n in field_names(points) if get(points, n) is not None]
    moving = [n for n in present if (get(points, n) != get(points, n)[0]).any()]
    values = torch.stack([get(points, n) for n in moving], -1)
    centre = values.mean(0)
    table = torch.cat([values - centre, (values - centre).square()], -1)
    signals = vmap(signal, in_dims=(0, None))(points, acquisition)
    prior = torch.zeros_like(signals[:, 0]) if weights is None else weights.log()

    def run(y: Tensor, _: object) -> tuple[Tensor, Tensor]:
        log = prior + _log_likelihood(y, signals, sigma, coils, free_S0)
        first, second = (log.softmax(-1) @ table).chunk(2, -1)
        return centre + first, (second - first.square()).clamp_min(0).sqrt()

    size = max(1, _ENTRIES // len(signals))
    mean, sd = over_voxels(run, data, size, progress)
    base = points
    for n in present:
        base = put(base, n, get(points, n)[0].expand(data.shape[:-1]))
    for k, n in enumerate(moving):
        base = put(base, n, mean[..., k])
    place = {n: sd[..., k] for k, n in enumerate(moving)}
    return Posterior(base, only(base, moving, place.__getitem__))


def _log_likelihood(
    y: Tensor, signals: Tensor, sigma: float, coils: int, free_S0: bool
) -> Tensor:
    """Return (voxel, point) log-likelihoods, up to a constant of each voxel."""
    if coils:
        total = 0.0
        for m, s in zip(y.unbind(-1), signals.unbind(-1), strict=True):
            total = total + noncentral_chi(m.unsqueeze(-1), s, sigma, coils)
        return torch.as_tensor(total)
    power, common = signals.square().sum(-1), y @ signals.mT
    if free_S0:
        return common.square() / power / (2 * sigma**2) - power.log() / 2
    return (common - power / 2) / sigma**2
