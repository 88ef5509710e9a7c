"""How an echo train blurs a point."""

import torch
from torch import Tensor


def point_spread(weights: Tensor, order: Tensor, zoom: int = 8) -> Tensor:
    """Return the point-spread function of a train along the phase encoding.

    PSF(y) = (1/N) Σ_k w(order(k)) exp(2πi k y/N), k from −N/2: what one voxel's echoes
    make of a point, N for the number of lines.

    Args:
        weights: (echo,) signal of the voxel at each echo.
        order: (line,) the echo of each line.
        zoom: points in a pixel.

    Returns:
        (lines · zoom,) complex; the point is at ``lines · zoom // 2``.

    >>> import torch
    >>> from mrsim import image
    >>> image.point_spread(torch.ones(4), image.linear(8, 4), zoom=1).abs().round()
    tensor([0., 0., 0., 0., 1., 0., 0., 0.])
    """
    lines = len(order)
    filled = weights[order]
    size = lines * zoom
    before = size // 2 - lines // 2
    wide = torch.nn.functional.pad(filled, (before, size - lines - before))
    spread = torch.fft.ifft(torch.fft.ifftshift(wide)) * zoom
    return torch.fft.fftshift(spread)
