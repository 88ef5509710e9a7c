"""Responses of single fibres: zonal harmonics, and convolution with them.

A response is the signal of fibres along z, S(z) = Σ r(l) Y(l, 0, z), as MRtrix stores
it: r(l) for l = 0, 2, 4, …, one row for each shell where there are several.
"""

import math

import torch
from torch import Tensor

from mrsim._check import check_floats
from mrsim.tract.basis import degree, harmonics, zonal
from mrsim.tract.sphere import gauss

_NODES = 64  # of the quadrature: exact to rounding for b (D∥ − D⊥) ≤ 30


def kernel(response: Tensor) -> Tensor:
    """Return the factors by which convolution multiplies each degree.

    R(l) = r(l) √(4π / (2l + 1)): the response over the harmonics of a delta along z.

    Args:
        response: (..., degree) r(0), r(2), r(4), … [signal].

    Returns:
        (..., degree).

    Reference:
        Tournier 2004, NeuroImage 23:1176, Eq. 4.

    >>> import torch
    >>> kernel(torch.tensor([1.0]))
    tensor([3.5449])
    """
    degrees = range(response.shape[-1])
    delta = [math.sqrt(4 * math.pi / (4 * k + 1)) for k in degrees]
    return torch.cat([response[..., k : k + 1] * delta[k] for k in degrees], -1)


def convolve(fod: Tensor, response: Tensor) -> Tensor:
    """Convolve a fibre orientation density with a response: the signal's harmonics.

    s(l, m) = R(l) f(l, m), see `kernel`.

    Args:
        fod: (..., coefficient).
        response: (degree,), or (..., degree) for shells beside the leading axes.

    Returns:
        (..., coefficient) of the signal on the sphere; degrees that the response lacks
        are zero.

    Raises:
        ValueError: the number of coefficients fits no even lmax.

    >>> import torch
    >>> convolve(torch.tensor([2.0]), torch.tensor([1.0]))
    tensor([7.0898])
    """
    return fod * spread(response, degree(fod.shape[-1]))


def spread(response: Tensor, lmax: int) -> Tensor:
    """Return a response's factors, one for each coefficient up to a degree.

    Args:
        response: (..., degree).
        lmax: even degree.

    Returns:
        (..., coefficient), zero where the response has no such degree.
    """
    factors = kernel(response)
    missing = lmax // 2 + 1 - factors.shape[-1]
    if missing > 0:
        blank = factors.new_zeros((*factors.shape[:-1], missing))
        factors = torch.cat([factors, blank], -1)
    columns = [
        factors[..., k : k + 1].expand(*factors.shape[:-1], 4 * k + 1)
        for k in range(lmax // 2 + 1)
    ]
    return torch.cat(columns, -1)


def convolution(directions: Tensor, response: Tensor, lmax: int) -> Tensor:
    """Return the matrix from an FOD's coefficients to the signals of the volumes.

    Args:
        directions: (volume, 3) unit gradient directions; any where b = 0.
        response: (degree,) for all volumes, or (volume, degree).
        lmax: degree of the FOD.

    Returns:
        (volume, coefficient).

    Raises:
        ValueError: there is neither one response nor one for each volume.

    >>> import torch
    >>> from mrsim import tract
    >>> matrix = convolution(torch.eye(3), torch.tensor([2.0, 1.0]), 2)
    >>> matrix.shape
    torch.Size([3, 6])
    """
    if response.ndim == 2 and len(response) != len(directions):
        raise ValueError(
            f"response has {len(response)} rows for {len(directions)} volumes; give"
            f" one for each volume, response[shell_of_volume] with tract.shells"
        )
    return harmonics(directions, lmax) * spread(response, lmax)


def tensor_response(
    b: Tensor, axial: Tensor, radial: Tensor, lmax: int = 8, S0: Tensor | None = None
) -> Tensor:
    """Return the response of fibres that are axially symmetric tensors.

    r(l) = 2π ∫ S0 exp(−b (D⊥ + (D∥ − D⊥) z²)) Y(l, 0, z) dz, by quadrature.

    Args:
        b: (...) diffusion weighting [s/mm²].
        axial: D∥ [mm²/s], ().
        radial: D⊥ [mm²/s], (); 0 for sticks.
        lmax: even degree.
        S0: signal without weighting, (); 1 if ``None``.

    Returns:
        (..., degree), zonal coefficients.

    Raises:
        ValueError: lmax is odd.
        TypeError: b is no floating tensor.

    >>> import torch
    >>> b, axial, radial = torch.tensor([3000.0, 1.7e-3, 3e-4])
    >>> tensor_response(b, axial, radial, lmax=4)
    tensor([ 0.6209, -0.4549,  0.1966])
    """
    check_floats("tensor_response", b=b)
    nodes, weights = (x.to(b) for x in gauss(_NODES))
    decay = radial + (axial - radial) * nodes**2
    signal = (-b.unsqueeze(-1) * decay).exp()
    made = 2 * math.pi * (signal * weights) @ zonal(nodes, lmax)
    return made if S0 is None else S0 * made
