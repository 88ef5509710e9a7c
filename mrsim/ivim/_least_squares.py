"""Batched least-squares fits of any IVIM model, with ordered diffusivities."""

from torch import Tensor

from mrsim.fit import Fit
from mrsim.ivim._limits import Bounds
from mrsim.ivim._tensor import fit_tensor
from mrsim.ivim.acquisition import Acquisition
from mrsim.ivim.anisotropic import DTI
from mrsim.ivim.exponential import Biexp
from mrsim.ivim.fits import CHUNK, fitter, outer
from mrsim.ivim.problem import pose
from mrsim.ivim.starts import from_starts
from mrsim.ivim.voxels import Known, over_voxels


def least_squares(
    data: Tensor,
    acquisition: Acquisition,
    model: type = Biexp,
    *,
    bounds: Bounds | None = None,
    fixed: Known | None = None,
    starts: int = 1,
    iterations: int = 50,
    tolerance: float = 1e-2,
    sigma: float | Tensor | None = None,
    progress: bool = False,
) -> Fit:
    """Fit any IVIM model to any voxels by Levenberg-Marquardt.

    It minimises ½ Σ (S(θ) − data)² within bounds, from the best atoms of a small
    dictionary; by `mrsim.fit`, so that each voxel stops when it is done. Diffusivities
    stay ordered, see `mrsim.ivim.ordered`.

    Args:
        data: (..., sample) signals of any voxels; non-positive ones are fine, and a
            voxel with NaN, or without signal, gives NaN.
        acquisition: the samples of all voxels.
        model: the record's class: `Biexp`, `Ballistic`, …; of `DTI`, Dp is isotropic,
            D has no bounds but at the start, and starts and fixed play no part.
        bounds: name → (lower, upper) [the field's unit], exact; `limits` for names left
            out. Naming a further field, such as ``K``, makes it an unknown.
        fixed: name → known value, a number or a map (...): relaxation times, Db, S0.
        starts: ranges of Dp (of v, Dstar, D2) with a start of their own; all but the
            best are tried in those voxels only where they may win.
        iterations: most steps of a voxel.
        tolerance: of `mrsim.fit.levenberg_marquardt`; its square is the part of the
            cost that is left.
        sigma: standard deviation of the noise [units of data], for the covariance;
            estimated from each residual if ``None``.
        progress: show a progress bar (needs tqdm, extra ``demo``).

    Returns:
        The fit, as of `mrsim.fit`: params is the model's record, every leaf (...).

    Raises:
        ValueError: a bound or fixed name is unknown, data and b do not match, or sigma,
            tolerance or starts is not positive.

    >>> from mrsim import ivim
    >>> q = ivim.Acquisition(b=[0.0, 10.0, 40.0, 150.0, 400.0, 800.0])
    >>> data = ivim.signal(ivim.Biexp(S0=1.0, f=0.2, Dp=0.05, D=0.001), q)
    >>> ivim.least_squares(data, q).params.Dp
    tensor(0.0500)
    """
    problem, known = pose("least_squares", data, acquisition, model, bounds, fixed)
    if model is DTI:
        options = bounds, iterations, tolerance, sigma
        return over_voxels(
            lambda y, _: fit_tensor(y, acquisition, *options), data, CHUNK, progress
        )
    fit = from_starts(
        problem, known, starts, fitter(problem, iterations, tolerance, sigma)
    )

    def run(y: Tensor, known: dict[str, Tensor]) -> Fit:
        return outer(problem, fit(y, known), sigma)

    return over_voxels(run, data, CHUNK, progress, known)
