"""Constrained spherical deconvolution: from diffusion signals to fibre orientations."""

import torch
from torch import Tensor

from mrsim._check import check_floats, traced
from mrsim.tract.basis import harmonics, terms
from mrsim.tract.nonnegative import Solution, hard, soft
from mrsim.tract.response import convolution
from mrsim.tract.sphere import hemisphere
from mrsim.tree import record, static

_NORM = 2e-4  # of the first harmonic's power: MRtrix's unit of ``norm``
_PENALTY = 50.0  # MRtrix's unit of ``negative``
_DIRECTIONS = 300  # where amplitudes are constrained
_TINY = 1e-10  # regularisation of the multi-tissue problem


@record
class CSD:
    """How one shell is deconvolved; the defaults are those of MRtrix's dwi2fod csd."""

    directions: Tensor  # (volume, 3) unit gradient directions of the signal's volumes
    response: Tensor  # (degree,) zonal r(0), r(2), …; or one for each volume
    constraint: Tensor | None = None  # (direction, 3) where f ≥ 0; 300 by default
    lmax: int = static(8)  # of the FOD; may exceed the response's (super-resolution)
    negative: float = static(1.0)  # weight of negative amplitudes
    norm: float = static(1.0)  # weight of the norm


@record
class MSMT:
    """How several shells are deconvolved into several tissues."""

    directions: Tensor  # (volume, 3) unit gradient directions; any where b = 0
    fibre: Tensor  # (volume, degree) zonal response of each volume
    isotropic: Tensor  # (volume, tissue) r(0) of each volume, √4π × signal
    constraint: Tensor | None = None  # (direction, 3) where f ≥ 0, not differentiated
    lmax: int = static(8)  # of the FOD


@record
class Tissues:
    """Fibre orientations and isotropic tissues of a voxel."""

    fod: Tensor  # (coefficient,) tournier07
    isotropic: Tensor  # (tissue,) coefficients of Y(0, 0): fraction / √4π


def csd(signal: Tensor, q: CSD) -> Tensor:
    r"""Deconvolve a voxel's signal on one shell into a fibre orientation density.

    It is the minimum of

        ½ ‖A f − s‖² + ½ λ ‖f‖² + ½ μ² Σᵢ min(0, f(uᵢ))²,

    A the convolution with the response, λ = 2·10⁻⁴ ``norm`` (AᵀA)₀₀ and
    μ = 50 ``negative`` r(0) / directions. This convex cost has one minimum, and where
    MRtrix's iteration (solve, mark the negative amplitudes, solve again) ends, it is
    there; damped Newton steps reach it always. Derivatives in the signal, the
    directions and the response are exact to any order: at given marks the FOD is linear
    algebra. Where an amplitude is just changing its sign, second derivatives jump.

    Args:
        signal: (volume,) the volumes of one shell, without b = 0 [the response's unit].
        q: how.

    Returns:
        (coefficient,) tournier07, in the frame of the directions. A NaN in the signal
        gives NaN.

    Raises:
        ValueError: shapes do not fit, or lmax is odd.
        TypeError: dtypes differ.

    Reference:
        Tournier, Calamante and Connelly 2007, NeuroImage 35:1459.

    >>> import torch
    >>> from mrsim import tract
    >>> g = tract.hemisphere(60).float()
    >>> size = {"axial": torch.tensor(1.7e-3), "radial": torch.tensor(3e-4)}
    >>> response = tract.tensor_response(torch.tensor(3000.0), **size)
    >>> signal = (-3000 * (3e-4 + 1.4e-3 * g[:, 0] ** 2)).exp()  # a fibre along x
    >>> fod = csd(signal, CSD(directions=g, response=response))
    >>> (tract.harmonics(torch.eye(3), 8) @ fod).argmax()
    tensor(0)
    """
    return deconvolve(signal, q).x.to(signal.dtype)


def deconvolve(signal: Tensor, q: CSD) -> Solution:
    """Deconvolve as `csd` does, and tell where the constraint acts.

    Args:
        signal: (volume,).
        q: how.

    Returns:
        ``x``: the FOD (coefficient,) in double precision; ``active``: (direction,)
        bool, the amplitudes held back; ``settled``: the minimum was reached.

    Raises:
        ValueError: shapes do not fit, or lmax is odd.
        TypeError: dtypes differ.

    >>> import torch
    >>> from mrsim import tract
    >>> g = tract.hemisphere(60).float()
    >>> size = {"axial": torch.tensor(1.7e-3), "radial": torch.tensor(3e-4)}
    >>> response = tract.tensor_response(torch.tensor(3000.0), **size)
    >>> signal = (-3000 * (3e-4 + 1.4e-3 * g[:, 0] ** 2)).exp()  # a fibre along x
    >>> found = deconvolve(signal, CSD(directions=g, response=response))
    >>> bool(found.settled), bool(found.active.any())
    (True, True)
    """
    check_floats("csd", signal=signal, directions=q.directions, response=q.response)
    _check("csd", signal, q.directions)
    response = q.response.double()
    a = convolution(q.directions.double(), response, q.lmax)
    rows = _constraint(q.constraint, a, q.lmax)
    first = response if response.ndim == 1 else response.mean(0)
    weight = (q.negative * _PENALTY * first[0] / len(rows)) ** 2
    p = a.mT @ a
    eye = torch.eye(len(p), dtype=p.dtype, device=p.device)
    p = p + q.norm * _NORM * p[0, 0] * eye
    return soft(p, a.mT @ signal.double(), rows, weight)


def msmt(signal: Tensor, q: MSMT) -> Tissues:
    """Deconvolve all shells into fibres and isotropic tissues, none of them negative.

    It is the minimum of ½ ‖A f + Σₜ Aₜ cₜ − s‖² with f(uᵢ) ≥ 0 and cₜ ≥ 0, exactly: as
    dwi2fod msmt_csd. The constraint is met by the method of multipliers, and
    derivatives hold at the constraints that then act (implicit differentiation), in the
    signal, the directions and the responses.

    Args:
        signal: (volume,) of all shells with b = 0 [the responses' unit].
        q: how.

    Returns:
        The FOD and the isotropic coefficients. A NaN in the signal gives NaN.

    Raises:
        ValueError: shapes do not fit, or lmax is odd.
        TypeError: dtypes differ.

    Reference:
        Jeurissen 2014, NeuroImage 103:411.

    >>> import torch
    >>> from mrsim import tract
    >>> b = torch.tensor([0.0] * 6 + [1000.0] * 40 + [3000.0] * 60)
    >>> g = tract.hemisphere(106).float()
    >>> fibre = tract.tensor_response(b, torch.tensor(1.7e-3), torch.tensor(3e-4))
    >>> water = 3.545 * (-b * 3e-3).exp().unsqueeze(-1)
    >>> q = MSMT(directions=g, fibre=fibre, isotropic=water)
    >>> tissues = msmt(0.5 * (-b * 3e-3).exp(), q)
    >>> bool(tissues.fod.abs().max() < 1e-4)
    True
    """
    found = deconvolve_tissues(signal, q)
    fod, rest = found.x.to(signal.dtype).split([terms(q.lmax), q.isotropic.shape[-1]])
    return Tissues(fod=fod, isotropic=rest)


def deconvolve_tissues(signal: Tensor, q: MSMT) -> Solution:
    """Deconvolve as `msmt` does, and tell where the constraint acts.

    Args:
        signal: (volume,).
        q: how.

    Returns:
        ``x``: FOD and isotropic coefficients, in double precision; ``active``:
        (direction + tissue,) bool, the constraints that act; ``settled``: the minimum
        was reached.

    Raises:
        ValueError: shapes do not fit, or lmax is odd.
        TypeError: dtypes differ.

    >>> import torch
    >>> from mrsim import tract
    >>> b = torch.tensor([0.0] * 6 + [1000.0] * 40 + [3000.0] * 60)
    >>> g = tract.hemisphere(106).float()
    >>> fibre = tract.tensor_response(b, torch.tensor(1.7e-3), torch.tensor(3e-4))
    >>> water = 3.545 * (-b * 3e-3).exp().unsqueeze(-1)
    >>> q = MSMT(directions=g, fibre=fibre, isotropic=water)
    >>> found = deconvolve_tissues(0.5 * (-b * 3e-3).exp(), q)
    >>> bool(abs(found.x[-1] - 0.141) < 1e-3)  # 0.5 / 3.545
    True
    """
    given = {"directions": q.directions, "fibre": q.fibre, "isotropic": q.isotropic}
    check_floats("msmt", signal=signal, **given)
    _check("msmt", signal, q.directions)
    if q.isotropic.ndim != 2 or len(q.isotropic) != len(signal):
        raise ValueError(
            f"msmt: isotropic must have shape ({len(signal)}, tissue), r(0) of each"
            f" volume, got {tuple(q.isotropic.shape)}"
        )
    if q.constraint is not None and (
        q.constraint.requires_grad or traced(q.constraint)
    ):
        raise ValueError(
            "msmt: constraint is followed by a transform, but has no derivatives here;"
            " detach it, or close over it"
        )
    fibre = convolution(q.directions.double(), q.fibre.double(), q.lmax)
    a = torch.cat([fibre, q.isotropic.double()], -1)
    on_sphere = _constraint(q.constraint, fibre, q.lmax)
    tissues = q.isotropic.shape[-1]
    rows = torch.block_diag(
        on_sphere, on_sphere[0, 0] * torch.eye(tissues).to(on_sphere)
    )
    p = a.mT @ a
    size = p.diagonal().mean()
    p = p + _TINY * size * torch.eye(len(p), dtype=p.dtype, device=p.device)
    return hard(p, a.mT @ signal.double(), rows)


def _constraint(given: Tensor | None, like: Tensor, lmax: int) -> Tensor:
    if given is None:
        return harmonics(hemisphere(_DIRECTIONS).to(like), lmax)
    return harmonics(given.double(), lmax)


def _check(where: str, signal: Tensor, directions: Tensor) -> None:
    if signal.ndim != 1 or directions.shape != (len(signal), 3):
        raise ValueError(
            f"{where}: signal must have shape (volume,) and directions (volume, 3),"
            f" got {tuple(signal.shape)} and {tuple(directions.shape)}; map over voxels"
            f" with vmap({where}, in_dims=(0, None))"
        )
