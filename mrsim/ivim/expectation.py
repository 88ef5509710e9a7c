"""What a noisy signal tells about itself: moments and Fisher information.

The noise is given by a number of coils: 0 for Gaussian noise of real data, 1 for the
Rician noise of magnitudes, more for the root sum of squares (non-central chi).
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from mrsim.fit.bessel import shortfall
from mrsim.fit.likelihood import noncentral_chi

_WIDTH = 9.0  # standard deviations on either side that expectations cover
_NODES = 48  # of Gauss-Legendre quadrature
_ORDERS = 64  # of Chebyshev series


def moments(
    signal: Tensor, sigma: float | Tensor, coils: int = 1
) -> tuple[Tensor, Tensor]:
    """Return the mean and the variance of a magnitude.

    Args:
        signal: noise-free signal, of any shape [signal units].
        sigma: standard deviation of each coil's channels [signal units], () or like
            the signal.
        coils: 1 for Rician noise, more for non-central chi; 0 for Gaussian.

    Returns:
        Mean [signal units] and variance [signal units squared], like the signal.

    >>> import torch
    >>> from mrsim import ivim
    >>> ivim.moments(torch.tensor(0.0), 1.0)[0]  # √(π/2)
    tensor(1.2533)
    """
    width = torch.as_tensor(sigma, dtype=signal.dtype, device=signal.device)
    if not coils:
        return signal, (width + 0 * signal).square()
    a = (signal / width).abs()
    m, p = _nodes(a, coils)
    excess = m - a.unsqueeze(-1)
    mean = (p * excess).sum(-1)
    variance = (p * (excess - mean.unsqueeze(-1)).square()).sum(-1)
    return width * (a + mean), width.square() * variance


def information(signal: Tensor, sigma: float | Tensor, coils: int = 0) -> Tensor:
    """Return the exact Fisher information of each sample on its signal and on sigma.

    Gaussian: diag(1, 2)/sigma². Magnitudes: the expectation of the squared score, by
    Gauss-Legendre quadrature, kept as Chebyshev series in a²/(a² + 4 L) with
    a = signal/sigma, to 14 digits for all a.

    Args:
        signal: noise-free signal, of any shape [signal units].
        sigma: standard deviation of each coil's channels [signal units], () or like
            the signal.
        coils: L: 0 Gaussian, 1 Rician, more: non-central chi.

    Returns:
        (*signal, 2, 2) information [1/signal units squared].

    Reference:
        Karlsen 1999 (Magn Reson Med 41:614); Poot 2010 (IEEE Trans Med Imaging 29:819).

    >>> import torch
    >>> from mrsim import ivim
    >>> ivim.information(torch.tensor(3.0), 1.0, coils=1)[0, 0]
    tensor(0.9402)
    """
    width = torch.as_tensor(sigma, dtype=signal.dtype, device=signal.device)
    a = signal / width
    if coils:
        size = a.square() + 4 * coils
        u = a.square() / size
        on_signal, on_both, on_sigma = _clenshaw(_series(coils), 2 * u - 1)
        parts = [u * on_signal, a / size * on_both, a / size * on_both, on_sigma]
    else:
        one, none = torch.ones_like(a), torch.zeros_like(a)
        parts = [one, none, none, 2 * one]
    matrix = torch.stack(parts, -1).unflatten(-1, (2, 2))
    return matrix / width.square()[..., None, None]


@lru_cache
def _series(coils: int) -> list[list[float]]:
    """Return coefficients (order, 3) of I₀₀/u, I₀₁ (a² + 4 L)/a and I₁₁ in 2u − 1."""
    k = torch.arange(_ORDERS, dtype=torch.float64)
    angles = (k + 0.5) * (math.pi / _ORDERS)
    cos, sin = (angles / 2).cos(), (angles / 2).sin()
    a = 2 * math.sqrt(coils) * cos / sin
    m, p = _nodes(a, coils)
    x = a.unsqueeze(-1)
    short = shortfall(m * x, coils - 1)
    on_signal = m - x - m * short
    on_sigma = (m - x).square() + 2 * m * x * short - 2 * coils
    pairs = torch.stack([on_signal**2, on_signal * on_sigma, on_sigma**2])
    on_both = cos * sin / (2 * math.sqrt(coils))
    means = (pairs * p).sum(-1) / torch.stack([cos**2, on_both, torch.ones_like(a)])
    waves = (k * angles.unsqueeze(-1)).cos() * torch.where(k == 0, 1.0, 2.0) / _ORDERS
    return (means @ waves).mT.tolist()


def _clenshaw(series: list[list[float]], x: Tensor) -> list[Tensor]:
    """Sum Chebyshev series; one for each column of the coefficients."""
    after, later = ([torch.zeros_like(x)] * len(series[0]) for _ in range(2))
    for row in reversed(series[1:]):
        now = [
            c + 2 * x * one - two for c, one, two in zip(row, after, later, strict=True)
        ]
        after, later = now, after
    return [c + x * a - b for c, a, b in zip(series[0], after, later, strict=True)]


def _nodes(a: Tensor, coils: int) -> tuple[Tensor, Tensor]:
    """Return magnitudes (..., node) of sigma = 1 and their probabilities."""
    centre = (a.detach().square() + (2 * coils - 1)).sqrt().unsqueeze(-1)
    low = (centre - _WIDTH).clamp(min=0)
    half = (centre + _WIDTH - low) / 2
    points, weights = (torch.tensor(x, dtype=torch.float64).to(a) for x in _legendre())
    m = low + half * (1 + points)
    density = noncentral_chi(m, a.unsqueeze(-1), 1.0, coils).exp()
    return m, density * half * weights


@lru_cache
def _legendre() -> tuple[list[float], list[float]]:
    """Return nodes and weights of Gauss-Legendre quadrature (Golub and Welsch 1969)."""
    k = torch.arange(1, _NODES, dtype=torch.float64)
    side = torch.diag(k / (4 * k * k - 1).sqrt(), 1)
    points, vectors = torch.linalg.eigh(side + side.mT)
    return points.tolist(), (2 * vectors[0].square()).tolist()
