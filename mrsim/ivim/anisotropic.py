"""Directions: IVIM-DTI, and the mean over the directions of each shell."""

import torch
from torch import Tensor

from mrsim.ivim._signal import model
from mrsim.ivim.acquisition import Acquisition, check_inputs, needed
from mrsim.tree import neutral, record


@record
class DTI:
    """Two compartments with tensors: S0 [f exp(−b gᵀDp g) + (1 − f) exp(−b gᵀD g)].

    A tensor is (xx, yy, zz, xy, xz, yz), in the frame of bvec; a scalar ``Dp`` is
    isotropic. A scaled identity is the bi-exponential model.
    """

    S0: Tensor | None = neutral(1.0)  # () signal at b = 0 [signal units]
    f: Tensor  # () perfusion fraction [1]
    Dp: Tensor  # () or (6,) pseudo-diffusion of the blood [mm²/s]
    D: Tensor  # (6,) diffusion tensor of the tissue [mm²/s]


@record
class Shells:
    """The samples of each b value and how to average them over directions."""

    b: Tensor  # (shell,) mean b of the shell [s/mm²]
    weights: Tensor  # (shell, sample) of the spherical mean [1]; rows sum to 1


@model.register
def _(params: DTI, acquisition: Acquisition) -> Tensor:
    check_inputs(params, acquisition, D=[(6,)], Dp=[(), (6,)])
    g = needed("DTI", acquisition, "bvec")
    x, y, z = g.unbind(-1)
    products = torch.stack([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z], -1)
    tissue = torch.exp(-acquisition.b * (products @ params.D))
    along = products @ params.Dp if params.Dp.ndim else g.square().sum(-1) * params.Dp
    blood = torch.exp(-acquisition.b * along)
    s = params.f * blood + (1 - params.f) * tissue
    return s if params.S0 is None else params.S0 * s


def shells(b: Tensor, bvec: Tensor | None = None, tolerance: float = 0.02) -> Shells:
    """Group samples by b value, for `spherical_mean`.

    With directions, a shell of more than six is fitted by spherical harmonics of degree
    0 and 2, whose constant is the mean over the sphere wherever the directions lie;
    other shells take the plain mean.

    Args:
        b: (sample,) b values of the measurement [s/mm²].
        bvec: (sample, 3) unit directions.
        tolerance: neighbours in b further apart than this share of b, and than
            2.5 s/mm², belong to different shells.

    Returns:
        The shells, b ascending.

    Raises:
        ValueError: shapes do not match.

    >>> import torch
    >>> from mrsim import ivim
    >>> ivim.shells(torch.tensor([0.0, 0.0, 998.0, 1002.0])).b
    tensor([   0., 1000.])
    """
    if b.ndim != 1 or (bvec is not None and bvec.shape != (*b.shape, 3)):
        raise ValueError(
            f"ivim.shells: b must have shape (sample,) and bvec (sample, 3), got"
            f" {tuple(b.shape)} and {None if bvec is None else tuple(bvec.shape)};"
            f" transpose FSL's three rows with bvec.T"
        )
    order = b.argsort()
    rising = b[order]
    apart = rising.diff() > (tolerance * rising[1:]).clamp(min=2.5)
    cuts = (apart.nonzero().flatten() + 1).tolist()
    rows, centres = [], []
    for members in order.tensor_split(cuts):
        share = _shares(None if bvec is None else bvec[members], members)
        rows.append(b.new_zeros(b.shape).index_add(0, members, share.to(b)))
        centres.append(b[members].mean())
    return Shells(b=torch.stack(centres), weights=torch.stack(rows))


def _shares(g: Tensor | None, members: Tensor) -> Tensor:
    """Return how much each sample of a shell counts in its spherical mean."""
    equal = torch.full(members.shape, 1 / len(members), dtype=torch.float64)
    if g is None or len(members) <= 6 or not g.any(-1).all():
        return equal
    x, y, z = g.double().unbind(-1)
    harmonics = torch.stack([x * y, x * z, y * z, x * x - y * y, 3 * z * z - 1], -1)
    basis = torch.cat([torch.ones_like(harmonics[:, :1]), harmonics], -1)
    return torch.linalg.pinv(basis)[0]


def spherical_mean(data: Tensor, shells: Shells) -> Tensor:
    """Average measured or simulated signals over the directions of each shell.

    Args:
        data: (..., sample) signals; their logarithm for the geometric mean, which keeps
            D the trace.
        shells: from `shells`.

    Returns:
        (..., shell) means, fit for a model without directions at ``shells.b``; with
        noise of standard deviation sigma · ``shells.weights.norm(dim=-1)``.

    Raises:
        ValueError: the number of samples differs.

    >>> import torch
    >>> from mrsim import ivim
    >>> pairs = ivim.shells(torch.tensor([0.0, 0.0, 998.0, 1002.0]))
    >>> ivim.spherical_mean(torch.tensor([1.0, 2.0, 0.2, 0.4]), pairs)
    tensor([1.5000, 0.3000])
    """
    if data.shape[-1:] != shells.weights.shape[-1:]:
        raise ValueError(
            f"ivim.spherical_mean: the last axis of the data must be the"
            f" {shells.weights.shape[-1]} samples of the shells, got shape"
            f" {tuple(data.shape)}"
        )
    return data @ shells.weights.mT
