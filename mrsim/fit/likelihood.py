"""Log-densities of measured signals: Gaussian, Rician, non-central chi.

Sum them for the log-likelihood; differentiate with torch.func for fits, also with
respect to sigma.
"""

import math

import torch
from torch import Tensor

from mrsim.fit.bessel import log_bessel_scaled


def gaussian(data: Tensor, signal: Tensor, sigma: float | Tensor) -> Tensor:
    """Return the log-density of real data with Gaussian noise.

    log p = −(m − s)²/(2 sigma²) − log sigma − ½ log 2π.

    Args:
        data: (..., sample) measured signals m.
        signal: expected signals s, like data.
        sigma: standard deviation of the noise [signal units], () or like data.

    Returns:
        (..., sample) log-densities.

    Raises:
        TypeError: data are whole or complex numbers.

    >>> import torch
    >>> from mrsim.fit import likelihood
    >>> likelihood.gaussian(torch.tensor([1.0]), torch.tensor([1.5]), 0.5)
    tensor([-0.7258])
    """
    width = _width(sigma, data)
    deviation = (data - signal) / width
    return -deviation.square() / 2 - width.log() - math.log(2 * math.pi) / 2


def rician(data: Tensor, signal: Tensor, sigma: float | Tensor) -> Tensor:
    """Return the log-density of magnitude data of one coil.

    log p = log(m/sigma²) − (m² + s²)/(2 sigma²) + log I₀(m s/sigma²).

    Args:
        data: (..., sample) measured magnitudes m.
        signal: expected signals s without noise, like data.
        sigma: standard deviation of each channel [signal units], () or like data.

    Returns:
        (..., sample) log-densities; -inf where m ≤ 0, which no magnitude is.

    Raises:
        TypeError: data are whole or complex numbers.

    Reference:
        Rice 1944; Gudbjartsson and Patz 1995 (Magn Reson Med 34:910).

    >>> import torch
    >>> from mrsim.fit import likelihood
    >>> likelihood.rician(torch.tensor([1.0]), torch.tensor([0.0]), 1.0)
    tensor([-0.5000])
    """
    return noncentral_chi(data, signal, sigma, coils=1)


def noncentral_chi(
    data: Tensor, signal: Tensor, sigma: float | Tensor, coils: int
) -> Tensor:
    """Return the log-density of the root sum of squares of L coils' magnitudes.

    log p = log[m²ᴸ⁻¹ / (2ᴸ⁻¹ (L−1)! sigma²ᴸ)] − (m² + s²)/(2 sigma²)
    + log[(L−1)! (2/x)ᴸ⁻¹ I₍L₋₁₎(x)] with x = m s/sigma².

    Args:
        data: (..., sample) measured magnitudes m.
        signal: expected root sum of squares s without noise, like data.
        sigma: standard deviation of each coil's channels [signal units], () or like
            data.
        coils: L ≥ 1, or the effective number of a weighted or parallel reconstruction.

    Returns:
        (..., sample) log-densities; -inf where m ≤ 0, which no magnitude is.

    Raises:
        TypeError: data are whole or complex numbers.
        ValueError: the number of coils is not at least 1.

    Reference:
        Constantinides 1997 (Magn Reson Med 38:852); Aja-Fernández 2011 (65:1195).

    >>> import torch
    >>> from mrsim.fit import likelihood
    >>> one, none = torch.ones(1), torch.zeros(1)
    >>> likelihood.noncentral_chi(one, none, 1.0, coils=2)
    tensor([-1.1931])
    """
    if coils < 1:
        raise ValueError(f"coils must be an integer of at least 1, got {coils}")
    width = _width(sigma, data)
    positive = data > 0
    m, s = torch.where(positive, data / width, 1.0), signal / width
    constant = (coils - 1) * math.log(2) + math.lgamma(coils)
    weight = (2 * coils - 1) * m.log() - width.log() - constant
    # -(m² + s²)/2 + x would cancel at high SNR
    value = weight - (m - s).square() / 2 + log_bessel_scaled(m * s, coils - 1)
    return torch.where(positive, value, torch.where(data.isnan(), data, -math.inf))


def _width(sigma: float | Tensor, data: Tensor) -> Tensor:
    if not data.is_floating_point():
        raise TypeError(
            f"fit.likelihood: data must be floating-point, got {data.dtype}; convert"
            f" them with data.float(), magnitudes by data.abs()"
        )
    return torch.as_tensor(sigma, dtype=data.dtype, device=data.device)
