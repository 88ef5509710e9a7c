"""The diffusion signal of crossing fibres, and their orientation density."""

import torch
from torch import Tensor

from mrsim._check import check_floats, check_shapes
from mrsim.tract.basis import harmonics
from mrsim.tract.scheme import Scheme, check_scheme
from mrsim.tree import neutral, record


@record
class Fibres:
    """What is in a voxel: fibre populations, and free water in the rest."""

    axial: Tensor  # () diffusivity along fibres [mm²/s]
    radial: Tensor  # () across them [mm²/s]; 0 for sticks
    orientations: Tensor  # (fibre, 3) of any length but 0
    fractions: Tensor  # (fibre,) shares of the signal at b = 0
    water: Tensor | None = neutral(3e-3)  # () of what the fractions leave [mm²/s]
    S0: Tensor | None = neutral(1.0)  # () signal at b = 0


def multi_tensor(fibres: Fibres, scheme: Scheme) -> Tensor:
    """Return the diffusion signal of a voxel of crossing fibres.

    S = S0 [Σ fₖ exp(−b (D⊥ + (D∥ − D⊥)(g·uₖ)²)) + (1 − Σ fₖ) exp(−b D_water)]

    Args:
        fibres: one voxel.
        scheme: the volumes.

    Returns:
        (volume,) signal [units of S0].

    Raises:
        ValueError: a shape is wrong.
        TypeError: dtypes differ.

    Reference:
        Tuch 2002, Magn Reson Med 48:577; Behrens 2003, Magn Reson Med 50:1077
        (``radial=0``: ball and sticks).

    >>> from mrsim import tract
    >>> q = tract.Scheme(b=[0.0, 1e3], directions=[[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    >>> one = {"axial": 1.7e-3, "radial": 3e-4}
    >>> x = tract.Fibres(orientations=[[2.0, 0, 0]], fractions=[1.0], **one)
    >>> tract.multi_tensor(x, q)
    tensor([1.0000, 0.1827])
    """
    given = {n: getattr(fibres, n) for n in Fibres.__dataclass_fields__}
    check_floats("multi_tensor", **given, b=scheme.b)
    wanted = {"orientations": "fibre axis", "fractions": "fibre"}
    scalars = dict.fromkeys(("axial", "radial", "water", "S0"), "")
    check_shapes("multi_tensor", fibres, **wanted, **scalars)
    check_scheme("multi_tensor", scheme, len(scheme.b))
    u, b = _unit(fibres.orientations), scheme.b.unsqueeze(-1)
    along = (scheme.directions @ u.mT).square()
    rate = fibres.radial + (fibres.axial - fibres.radial) * along
    signal = ((-b * rate).exp() * fibres.fractions).sum(-1)
    free = torch.full_like(fibres.axial, 3e-3) if fibres.water is None else fibres.water
    signal = signal + (1 - fibres.fractions.sum()) * (-scheme.b * free).exp()
    return signal if fibres.S0 is None else fibres.S0 * signal


def delta_fod(directions: Tensor, fractions: Tensor, lmax: int) -> Tensor:
    """Return the orientation density of sharp fibres, cut at a degree.

    f = Σ fₖ Y(uₖ): what `csd` would find without noise and without constraint.

    Args:
        directions: (fibre, 3) of any length but 0.
        fractions: (fibre,).
        lmax: even degree.

    Returns:
        (coefficient,) tournier07.

    Raises:
        ValueError: lmax is odd.

    >>> import torch
    >>> from mrsim import tract
    >>> fod = delta_fod(torch.tensor([[0.0, 0, 1]]), torch.ones(1), 2)
    >>> tract.harmonics(torch.eye(3), 2) @ fod
    tensor([-0.1194, -0.1194,  0.4775])
    """
    return fractions @ harmonics(_unit(directions), lmax)


def _unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()
