"""The standard deviation of the noise, from the misfit of a model."""

from functools import partial

from torch import Tensor
from torch.func import vmap

from mrsim.fit.bessel import bessel_ratio
from mrsim.ivim import ordered
from mrsim.ivim._limits import Bounds
from mrsim.ivim._signal import signal
from mrsim.ivim.acquisition import Acquisition
from mrsim.ivim.exponential import Biexp
from mrsim.ivim.problem import Problem, pose
from mrsim.ivim.samples import Sample, some_voxels
from mrsim.ivim.scoring import score
from mrsim.ivim.voxels import Known

_ROUNDS = 20  # of the parameters and sigma in turn, at most
_SETTLED = 1e-3  # relative change of sigma² at which they end


def noise_level(
    data: Tensor,
    acquisition: Acquisition,
    model: type = Biexp,
    *,
    coils: int = 0,
    bounds: Bounds | None = None,
    fixed: Known | None = None,
) -> Tensor:
    """Estimate the standard deviation of the noise, one for all voxels.

    Gaussian noise: sigma² = Σ r² / (samples − unknowns) over the residuals r of
    least-squares fits. Magnitudes of L coils: the parameters of every voxel and sigma
    maximise the likelihood in turn, sigma² = Σ [m² + S² − 2 m S R(m S/sigma²)] /
    (2 L samples − unknowns) with the `bessel_ratio` R of order L − 1.

    Args:
        data: (..., sample) signals; some thousands of voxels are used.
        acquisition: the samples of all voxels.
        model: the record's class, as of `least_squares`.
        coils: L: 0 Gaussian noise, 1 Rician, more: non-central chi.
        bounds: as of `least_squares`.
        fixed: as of `least_squares`.

    Returns:
        () standard deviation of each channel [units of data].

    Raises:
        ValueError: there are no more samples than unknowns, or no voxel can be used.

    Reference:
        Karlsen 1999, Magn Reson Med 41:614.

    >>> import torch
    >>> from mrsim import ivim
    >>> q = ivim.Acquisition(b=[0.0, 10.0, 40.0, 150.0, 400.0, 800.0])
    >>> clean = ivim.signal(ivim.Biexp(S0=1.0, f=0.2, Dp=0.05, D=0.001), q)
    >>> unit = torch.randn(2000, 6, generator=torch.Generator().manual_seed(0))
    >>> round(float(ivim.noise_level(clean + 0.02 * unit, q)), 3)
    0.02
    """
    problem, known = pose("noise_level", data, acquisition, model, bounds, fixed)
    return level(problem, some_voxels(problem, data, known), coils)


def level(problem: Problem, sample: Sample, coils: int) -> Tensor:
    """Estimate sigma from the fits of some voxels, see `noise_level`.

    Returns:
        () standard deviation.

    Raises:
        ValueError: there are no more samples than unknowns.
    """
    y, start = sample.data, sample.fit.params
    samples, unknowns = y.shape[-1], len(problem.box)
    if samples <= unknowns:
        raise ValueError(
            f"ivim: sigma cannot be estimated from {samples} samples for {unknowns}"
            f" unknowns; give sigma"
        )
    power = 2 * sample.fit.cost.nanmean() / (samples - unknowns)
    if not coils:
        return power.sqrt()
    scored = vmap(partial(score, problem, coils, 20, 0.01), in_dims=(0, 0, None, None))
    q = problem.acquisition
    for _ in range(_ROUNDS):
        found = scored(y, start, power.sqrt(), q)
        start = ordered.to_inner(found.params, problem.box, problem.names)
        s = vmap(signal, in_dims=(0, None))(found.params, q)
        pull = 2 * y * s * bessel_ratio(y * s / power, coils - 1)
        each = (y.square() + s.square() - pull).sum(-1)
        before, power = power, each.nanmean() / (2 * coils * samples - unknowns)
        if abs(power / before - 1) < _SETTLED:
            break
    return power.sqrt()
