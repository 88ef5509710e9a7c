"""Learn the distribution of the parameters over the voxels of an image."""

import torch
from torch import Tensor

from mrsim.ivim._limits import Bounds
from mrsim.ivim._noise_level import level
from mrsim.ivim.acquisition import Acquisition
from mrsim.ivim.exponential import Biexp
from mrsim.ivim.prior import Prior, flat, mode_fitter, to_logits
from mrsim.ivim.problem import Problem, pose
from mrsim.ivim.samples import Sample, at_sample, some_voxels
from mrsim.ivim.voxels import Known, as_map

ROUNDS = 20  # of expectation and maximisation


def learn_prior(
    data: Tensor,
    acquisition: Acquisition,
    model: type = Biexp,
    *,
    sigma: float | Tensor | None = None,
    bounds: Bounds | None = None,
    fixed: Known | None = None,
    rounds: int = ROUNDS,
) -> Prior:
    """Learn the distribution of the unknowns over the voxels of an image.

    Expectation and maximisation of the hierarchical model in which the logits of every
    voxel are drawn from one normal distribution, with Laplace's approximation of each
    posterior. Its start, and the result for ``rounds=0``, is the empirical prior: mean
    and covariance of the logits of least-squares estimates.

    Args:
        data: (..., sample) signals; some thousands of voxels are used.
        acquisition: the samples of all voxels.
        model: the record's class, as of `least_squares`.
        sigma: as of `posterior_mode`.
        bounds: as of `least_squares`.
        fixed: as of `least_squares`.
        rounds: of expectation and maximisation.

    Returns:
        The prior.

    Raises:
        ValueError: a name is unknown, or data and b do not match.

    Reference:
        Orton 2014, Magn Reson Med 71:411; Barbieri 2016, Magn Reson Med 75:2175.

    >>> import torch
    >>> from mrsim import ivim
    >>> q = ivim.Acquisition(b=[0.0, 10.0, 40.0, 150.0, 400.0, 800.0])
    >>> clean = ivim.signal(ivim.Biexp(S0=1.0, f=0.2, Dp=0.05, D=0.001), q)
    >>> unit = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    >>> prior = ivim.learn_prior(clean + 0.02 * unit, q, sigma=0.02, rounds=2)
    >>> prior.covariance.shape
    torch.Size([4, 4])
    """
    problem, known = pose("learn_prior", data, acquisition, model, bounds, fixed)
    sample = some_voxels(problem, data, known)
    width = level(problem, sample, 0) if sigma is None else sigma
    return learnt(problem, sample, as_map("learn_prior", "sigma", width, data), rounds)


def learnt(problem: Problem, sample: Sample, sigma: Tensor, rounds: int) -> Prior:
    """Learn the prior of a problem from some voxels, see `learn_prior`."""
    width = at_sample(sigma, sample)
    at = to_logits(problem, sample.fit.params)
    prior = _moments(flat(problem, at), 0.0)
    fit = mode_fitter(problem, 8, 1e-2)
    for _ in range(rounds):
        found = fit(sample.data, at, width, prior)
        at = found.params
        prior = _moments(flat(problem, at), found.covariance)
    return prior


def _moments(u: Tensor, within: Tensor | float) -> Prior:
    """Return the mean and covariance over voxels that are finite."""
    good = u.isfinite().all(-1)
    if isinstance(within, Tensor):
        good = good & within.isfinite().flatten(1).all(-1)
        within = within[good].mean(0)
    x = u[good]
    off = x - x.mean(0)
    floor = 1e-4 * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return Prior(mean=x.mean(0), covariance=off.mT @ off / len(x) + within + floor)
