"""The likelihood of one voxel's magnitudes around one point."""

import torch
from torch import Tensor

from mrsim.fit.bessel import bessel_ratio
from mrsim.fit.likelihood import noncentral_chi
from mrsim.fit.local import Local


def expand(
    y: Tensor, s: Tensor, columns: Tensor, width: Tensor, coils: int, silent: Tensor
) -> Local:
    """Expand −log p to second order around a signal, by Fisher scoring.

    The score of a sample is (y I_L(x)/I_{L−1}(x) − s)/sigma², x = y s/sigma²; its
    information, within 2 % for one coil, a/(a + L − ½ + ½ exp(−a/5))/sigma² with
    a = s²/sigma².

    Args:
        y: (sample,) magnitudes.
        s: (sample,) signal without noise.
        columns: (sample, p) its Jacobian.
        width: standard deviation sigma of each channel, () or (sample,).
        coils: L, 1 for Rician noise.
        silent: (p,) bool, columns that are rounding noise.

    Returns:
        The cost is what −log p lacks of its least value for these data, plus half the
        number of samples.

    Reference:
        Sijbers 1998, IEEE Trans Med Imaging 17:357.
    """
    power = width.square()
    expected = y * bessel_ratio(y * s / power, coils - 1)
    a = s.square() / power
    share = a / (a + coils - 0.5 + 0.5 * torch.exp(-a / 5))
    # the signal of the largest density: differences to it do not cancel
    above = y.square() - (2 * coils - 1) * power
    likeliest = torch.where(above > 0, torch.where(above > 0, above, 1.0).sqrt(), 0.0)
    lost = noncentral_chi(y, likeliest, width, coils) - noncentral_chi(
        y, s, width, coils
    )
    return Local(
        cost=lost.sum() + len(y) / 2,
        slope=columns.mT @ ((s - expected) / power),
        curve=columns.mT @ ((share / power).unsqueeze(-1) * columns),
        silent=silent,
        power=(y.square() / power).sum(),
    )
