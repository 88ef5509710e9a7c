"""Least squares for the diffusion tensor of the tissue, IVIM-DTI."""

import torch
from torch import Tensor
from torch.func import vmap

from mrsim.fit import Fit, levenberg_marquardt
from mrsim.ivim._limits import Bounds, limits
from mrsim.ivim._signal import signal
from mrsim.ivim._varpro import varpro
from mrsim.ivim.acquisition import Acquisition
from mrsim.ivim.anisotropic import DTI

_UNKNOWNS = ("S0", "f", "Dp", "D")


def fit_tensor(
    y: Tensor,
    acquisition: Acquisition,
    bounds: Bounds | None,
    iterations: int,
    tolerance: float,
    sigma: float | Tensor | None,
) -> Fit:
    """Fit `DTI` with an isotropic Dp, from the isotropic fit of each voxel.

    Args:
        y: (voxel, sample) signals.
        acquisition: the samples, with bvec.
        bounds: of S0, f and Dp; ``D`` bounds the isotropic start only.
        iterations: most steps.
        tolerance: when a voxel is done.
        sigma: of the noise, for the covariance.

    Returns:
        The fit; D is (voxel, 6), the covariance (voxel, 9, 9).
    """
    box = limits(bounds, DTI)
    start = varpro(y, Acquisition(b=acquisition.b), bounds=box, starts=2).params
    shape = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]).to(y)
    given = DTI(S0=start.S0, f=start.f, Dp=start.Dp, D=start.D.unsqueeze(-1) * shape)
    one = levenberg_marquardt(
        signal,
        *_UNKNOWNS,
        bounds={n: box[n] for n in ("S0", "f", "Dp")},
        iterations=iterations,
        tolerance=tolerance,
        sigma=sigma,
    )
    return vmap(one, in_dims=(0, 0, None))(y, given, acquisition)
