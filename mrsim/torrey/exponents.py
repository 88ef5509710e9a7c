"""How an encoding weighs a decaying correlation: what Gaussian signals are made of."""

import math

import torch
from torch import Tensor

from mrsim.torrey.encoding_profile import Pieces, timeline

_TERMS = 20


def exponents(played: Pieces, rates: Tensor) -> Tensor:
    r"""Return I(λ) = ∫∫_{s<t} g(t) gᵀ(s) e^{−λ(t−s)} ds dt of a refocused waveform.

    By parts it is λ ∫F hᵀ dt with F = ∫g and h' = g − λh, which does not cancel at
    small λ: I(λ) → λ B, the b-tensor. Pieces of constant g are integrated in closed
    form.

    Args:
        played: an encoding as constant pieces; its net moment counts as zero.
        rates: λ [1/s] (rate,).

    Returns:
        (rate, 3, 3) symmetric [1/mm²].

    >>> import torch
    >>> from mrsim import torrey
    >>> from mrsim.torrey.encoding_profile import pieces
    >>> x = torrey.PGSE(q=500.0, direction=[1.0, 0, 0], delta=0.01, Delta=0.03)
    >>> made = exponents(pieces(torrey.profile(x)), torch.tensor([1e-3]))[0, 0, 0]
    >>> torch.isclose(made, 1e-3 * torrey.b_value(x), rtol=1e-4)
    tensor(True)
    """
    durations, vectors = timeline(played)
    z = durations[:, None] * rates
    first, second, third = _integrals(z)
    F = torch.zeros_like(vectors[0])
    h = torch.zeros_like(rates)[:, None] * F
    total = h[:, :, None] * F
    for k, (tau, g) in enumerate(zip(durations, vectors, strict=True)):
        one, two, three = (x[k][:, None] for x in (first, second, third))
        left = F * (one * tau)
        right = g * (two * tau * tau)
        total = total + (left + right)[:, :, None] * h[:, None, :]
        left = F * ((one - two) * tau * tau) + g * ((one - three) / 2 * tau**3)
        total = total + left[:, :, None] * g
        h = h * torch.exp(-z[k])[:, None] + one * tau * g
        F = F + tau * g
    return rates[:, None, None] * (total + total.mT) / 2


def _integrals(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ∫uⁿ e^{−zu} du over [0, 1] for n = 0, 1, 2, exact also at small z."""
    small = torch.where(z < 1, z, 0.0)
    large = torch.where(z < 1, 1.0, z)
    near = []
    for n in range(3):
        series = torch.zeros_like(z)
        for k in reversed(range(_TERMS)):
            series = 1 / (math.factorial(k) * (k + n + 1)) + series * -small
        near.append(series)
    end = torch.exp(-large)
    far = [(1 - end) / large]
    far.append((far[0] - end) / large)
    far.append((2 * far[1] - end) / large)
    made = [torch.where(z < 1, a, b) for a, b in zip(near, far, strict=True)]
    return made[0], made[1], made[2]
