"""Echo-ordered readout of an image into k-space, and the image that comes back."""

import math

import torch
from torch import Tensor

from mrsim._check import concrete
from mrsim.tree import record


@record
class Readout:
    """How an image (x, y) is read: lines along x, phase encoding along y.

    Frequencies run from −n/2 to n/2 − 1 and voxels likewise, both in cycles over the
    field of view: the centre of k-space is line ``y // 2``.
    """

    order: Tensor  # (y,) int, the echo that reads each line, as from `linear`
    coils: Tensor | None = None  # (coil, x, y) complex sensitivities [1]
    mask: Tensor | None = None  # (x, y) or (y,) samples that are taken: 1, others 0
    dwell: Tensor | None = None  # () time from sample to sample along x [s]


def kspace(signal: Tensor, readout: Readout, df: Tensor | None = None) -> Tensor:
    r"""Read the echoes of all voxels into one k-space.

    k_c(kx, ky) = Σ_xy C_c(x, y) s_e(x, y) exp(−2πi (kx x/X + ky y/Y) + 2πi df(x, y)
    kx·dwell) with the echo e = order(ky). Without dwell off-resonance acts through the
    train's signal alone.

    Args:
        signal: (x, y, echo) of all voxels, from `echoes`.
        readout: order, coils, mask and dwell time.
        df: (x, y) off-resonance [Hz] during the readout, which shifts along x.

    Returns:
        (coil, x, y) complex samples, 0 where the mask is 0; (x, y) without coils.

    Raises:
        ValueError: shapes do not fit, order names no echo, or df and dwell are not
            given together.

    >>> import torch
    >>> from mrsim import image
    >>> point = torch.zeros(4, 4, 2).index_fill(0, torch.tensor([2]), 1.0)
    >>> image.kspace(point, image.Readout(order=image.linear(4, 2))).abs()[:, 2]
    tensor([4., 4., 4., 4.])
    """
    _check(signal, readout, df)
    planes = _complex(signal).movedim(-1, 0)  # (echo, x, y)
    if readout.coils is not None:
        planes = _complex(readout.coils).unsqueeze(1) * planes
    along = _fourier(planes, -2) if df is None else _turning(planes, readout, df)
    whole = _fourier(along, -1).movedim(-3, -1)  # (..., x, y, echo)
    echo = readout.order.long().to(whole.device)[:, None].expand(*whole.shape[:-1], 1)
    made = whole.gather(-1, echo).squeeze(-1)
    mask = readout.mask
    return made if mask is None else made * mask.to(made.real)


def reconstruct(samples: Tensor, readout: Readout) -> Tensor:
    """Transform k-space back and combine the coils: the adjoint, of unit gain.

    m = Σ_c C_c* F⁻¹ k_c / Σ_c |C_c|², and F⁻¹ k without coils; missing samples are 0.
    Voxels that no coil sees are 0.

    Args:
        samples: (coil, x, y) or (x, y) from `kspace`.
        readout: as given to it.

    Returns:
        (x, y) complex image.

    Raises:
        ValueError: samples and coils differ in shape.

    >>> import torch
    >>> from mrsim import image
    >>> flat, readout = torch.ones(4, 4, 2), image.Readout(order=image.linear(4, 2))
    >>> image.reconstruct(image.kspace(flat, readout), readout).real[0]
    tensor([1., 1., 1., 1.])
    """
    if readout.coils is not None and samples.shape != readout.coils.shape:
        raise ValueError(
            f"image.reconstruct: samples must have the shape of the readout's coils,"
            f" {tuple(readout.coils.shape)}, got {tuple(samples.shape)}"
        )
    made = _inverse_fourier(_inverse_fourier(samples, -1), -2)
    if readout.coils is None:
        return made
    coils = _complex(readout.coils)
    weight = (coils.real.square() + coils.imag.square()).sum(0)
    seen = weight > 0
    both = (torch.complex(coils.real, -coils.imag) * made).sum(0)
    return torch.where(seen, both / torch.where(seen, weight, 1.0), 0.0)


def _complex(x: Tensor) -> Tensor:
    return x if x.is_complex() else torch.complex(x, torch.zeros_like(x))


def _fourier(x: Tensor, dim: int) -> Tensor:
    """Return Σ x exp(−2πi k n/N), n and k from −N/2."""
    moved = torch.fft.fft(torch.fft.ifftshift(x, dim), dim=dim)
    return torch.fft.fftshift(moved, dim)


def _inverse_fourier(x: Tensor, dim: int) -> Tensor:
    moved = torch.fft.ifft(torch.fft.ifftshift(x, dim), dim=dim)
    return torch.fft.fftshift(moved, dim)


def _turning(planes: Tensor, readout: Readout, df: Tensor) -> Tensor:
    """Transform along x while every voxel turns with its own frequency, exactly."""
    size = planes.shape[-2]
    place = torch.arange(size, device=df.device, dtype=df.dtype) - size // 2
    dwell = torch.as_tensor(readout.dwell)
    along = (place[:, None] * place / size).unsqueeze(-1)
    turns = (place * dwell)[:, None, None] * df - along
    angle = 2 * math.pi * turns
    wave = torch.complex(angle.cos(), angle.sin())  # (sample, x, y)
    return torch.einsum("...xy,kxy->...ky", planes, wave)


def _check(signal: Tensor, readout: Readout, df: Tensor | None) -> None:
    grid, lines, order = tuple(signal.shape[:2]), len(readout.order), readout.order
    if signal.ndim != 3 or grid[1] != lines:
        raise ValueError(
            f"image.kspace: signal must have shape (x, y, echo) with y = {lines}, the"
            f" lines that order names, got {tuple(signal.shape)}"
        )
    echoes = range(signal.shape[2])
    if order.is_floating_point() or (
        concrete(order) and not set(order.tolist()) <= {*echoes}
    ):
        raise ValueError(
            f"image.kspace: order must be integers, the echo of each line from 0 to"
            f" {len(echoes) - 1}, got {order.tolist() if concrete(order) else order}"
        )
    first = () if readout.coils is None else readout.coils.shape[:1]
    fields = {
        "coils": (readout.coils, [(*first, *grid)]),
        "mask": (readout.mask, [grid, grid[1:]]),
        "df": (df, [grid]),
    }
    for name, (value, shapes) in fields.items():
        if value is not None and tuple(value.shape) not in shapes:
            raise ValueError(
                f"image.kspace: {name} must end in the image's axes, as the shape"
                f" {' or '.join(map(str, shapes))}, got {tuple(value.shape)}"
            )
    if (df is None) != (readout.dwell is None):
        raise ValueError(
            "image.kspace: off-resonance during the readout needs both df [Hz] and the"
            " readout's dwell [s]; give both or none"
        )
