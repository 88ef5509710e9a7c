"""Maximum likelihood of magnitudes: Rician and non-central chi noise."""

from functools import partial

from torch import Tensor
from torch.func import vmap

from mrsim.fit import Fit
from mrsim.ivim._limits import Bounds
from mrsim.ivim._noise_level import level
from mrsim.ivim.acquisition import Acquisition
from mrsim.ivim.exponential import Biexp
from mrsim.ivim.fits import CHUNK, fitter
from mrsim.ivim.problem import pose
from mrsim.ivim.samples import some_voxels
from mrsim.ivim.scoring import score
from mrsim.ivim.starts import from_starts
from mrsim.ivim.voxels import Known, as_map, over_voxels


def maximum_likelihood(
    data: Tensor,
    acquisition: Acquisition,
    model: type = Biexp,
    *,
    sigma: float | Tensor | None = None,
    coils: int = 1,
    bounds: Bounds | None = None,
    fixed: Known | None = None,
    starts: int = 1,
    iterations: int = 50,
    tolerance: float = 1e-3,
    progress: bool = False,
) -> Fit:
    """Fit any IVIM model to magnitudes by maximum likelihood.

    It maximises Σ log p(m | S(θ), sigma) within bounds by damped Fisher scoring: the
    score of a signal is (m I_L(x)/I_{L−1}(x) − S)/sigma² with x = m S/sigma².

    Args:
        data: (..., sample) magnitudes; a voxel with NaN or negative ones gives NaN.
        acquisition: the samples of all voxels.
        model: the record's class, as of `least_squares`.
        sigma: standard deviation of each channel [units of data], a number or a map
            (...); one value is estimated for all voxels if ``None``.
        coils: L, 1 for Rician noise, more for non-central chi.
        bounds: as of `least_squares`.
        fixed: as of `least_squares`.
        starts: as of `least_squares`, whose result is the start.
        iterations: most steps of a voxel.
        tolerance: a voxel is converged when its distance to the maximum is below this
            many standard deviations times √samples.
        progress: show a progress bar (needs tqdm, extra ``demo``).

    Returns:
        The fit, as of `mrsim.fit`: its cost is −log p, its covariance the inverse of
        the Fisher information of this noise at the estimate.

    Raises:
        ValueError: a name is unknown, or data and b do not match.

    Reference:
        Sijbers 1998, IEEE Trans Med Imaging 17:357; Karlsen 1999, Magn Reson Med
        41:614.

    >>> import torch
    >>> from mrsim import ivim
    >>> q = ivim.Acquisition(b=[0.0, 10.0, 40.0, 150.0, 400.0, 800.0])
    >>> data = ivim.signal(ivim.Biexp(S0=1.0, f=0.2, Dp=0.05, D=0.001), q)
    >>> ivim.maximum_likelihood(data, q, sigma=0.01).params.f < 0.2
    tensor(True)
    """
    problem, known = pose("maximum_likelihood", data, acquisition, model, bounds, fixed)
    if sigma is None:
        sigma = level(problem, some_voxels(problem, data, known), coils)
    first = from_starts(problem, known, starts, fitter(problem, iterations))
    one = partial(score, problem, coils, iterations, tolerance)
    scored = vmap(one, in_dims=(0, 0, 0, None))

    def run(y: Tensor, parts: dict[str, Tensor]) -> Fit:
        width = parts.pop("sigma")
        start = first(y, parts)
        return scored(y, start.params, width, acquisition)

    width = as_map("maximum_likelihood", "sigma", sigma, data)
    return over_voxels(run, data, CHUNK, progress, {**known, "sigma": width})
