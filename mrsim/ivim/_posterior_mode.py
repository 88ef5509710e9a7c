"""Maximum a posteriori fits, with a prior learnt from all voxels."""

from typing import Any

from torch import Tensor
from torch.func import jacrev, vmap

from mrsim.fit import Fit
from mrsim.ivim._learn_prior import ROUNDS, learnt
from mrsim.ivim._limits import Bounds
from mrsim.ivim._noise_level import level
from mrsim.ivim.acquisition import Acquisition
from mrsim.ivim.exponential import Biexp
from mrsim.ivim.fits import CHUNK
from mrsim.ivim.prior import Prior, flat, from_logits, mode_fitter, to_logits
from mrsim.ivim.problem import Problem, pose
from mrsim.ivim.samples import some_voxels
from mrsim.ivim.starts import starter
from mrsim.ivim.voxels import Known, as_map, over_voxels
from mrsim.tree import put, replace


def posterior_mode(
    data: Tensor,
    acquisition: Acquisition,
    model: type = Biexp,
    *,
    prior: Prior | None = None,
    sigma: float | Tensor | None = None,
    bounds: Bounds | None = None,
    fixed: Known | None = None,
    iterations: int = 30,
    tolerance: float = 1e-3,
    progress: bool = False,
) -> Fit:
    """Fit any IVIM model by maximum a posteriori.

    It minimises ½ Σ (S(θ) − data)²/sigma² + ½ (u − μ)ᵀ Σ⁻¹ (u − μ), u the logits of θ
    in its bounds, with the `Prior` (μ, Σ).

    Args:
        data: (..., sample) signals.
        acquisition: the samples of all voxels.
        model: the record's class, as of `least_squares`.
        prior: what is known beforehand; `learn_prior` of these data if ``None``.
        sigma: standard deviation of the noise [units of data], a number or a map (...);
            estimated from all residuals of a least-squares fit if ``None``.
        bounds: as of `least_squares`; the estimates lie strictly within.
        fixed: as of `least_squares`.
        iterations: most steps of a voxel.
        tolerance: as of `least_squares`.
        progress: show a progress bar (needs tqdm, extra ``demo``).

    Returns:
        The fit, as of `mrsim.fit`: its cost is what is minimised, its covariance that
        of Laplace's approximation of the posterior.

    Raises:
        ValueError: a name is unknown, or data and b do not match.

    Reference:
        Neil and Bretthorst 1993, Magn Reson Med 29:642; Gustafsson 2018, Magn Reson Med
        79:1674.

    >>> import torch
    >>> from mrsim import ivim
    >>> q = ivim.Acquisition(b=[0.0, 10.0, 40.0, 150.0, 400.0, 800.0])
    >>> data = ivim.signal(ivim.Biexp(S0=1.0, f=0.2, Dp=0.05, D=0.001), q)
    >>> prior = ivim.Prior(mean=torch.zeros(3) - 1, covariance=torch.eye(3))
    >>> known = {"prior": prior, "sigma": 0.001, "fixed": {"S0": 1.0}}
    >>> ivim.posterior_mode(data, q, **known).params.Dp
    tensor(0.0500)
    """
    problem, known = pose("posterior_mode", data, acquisition, model, bounds, fixed)
    if sigma is None:
        sigma = level(problem, some_voxels(problem, data, known), 0)
    width = as_map("posterior_mode", "sigma", sigma, data)
    if prior is None:
        prior = learnt(problem, some_voxels(problem, data, known), width, ROUNDS)
    begin = starter(problem, known)
    fit, given = mode_fitter(problem, iterations, tolerance), prior

    def run(y: Tensor, parts: dict[str, Tensor]) -> Fit:
        sigma = parts.pop("sigma")
        start = to_logits(problem, begin(y, parts, 1)[0][0])
        return _natural(problem, fit(y, start, sigma, given))

    return over_voxels(run, data, CHUNK, progress, {**known, "sigma": width})


def _natural(problem: Problem, found: Fit) -> Fit:
    """Turn logits into parameters, and their covariance by its first order."""
    names = list(problem.box)

    def values(u: Tensor, base: Any) -> Tensor:
        for n, x in zip(names, u, strict=True):
            base = put(base, n, x)
        natural = from_logits(problem, base)
        return flat(problem, natural)

    slope = vmap(jacrev(values))(flat(problem, found.params), found.params)
    params = vmap(lambda p: from_logits(problem, p))(found.params)
    matrix = slope @ found.covariance @ slope.mT
    return replace(found, params=params, covariance=matrix)
