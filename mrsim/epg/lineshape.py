"""Absorption lines of semisolid pools: how fast RF of an offset saturates them."""

import math
from functools import lru_cache, partial
from typing import get_args

import torch
from torch import Tensor

from mrsim import _remat
from mrsim.tissue import Lineshape

_CUT = 1500.0  # Hz; nearer to resonance a super-Lorentzian is continued
_NODES = (50, 46)  # of the two integrals; fixed, so that every x shares them
_SLICE = 2048
_REACH = 3.5  # of τ; e^{-2x² cosh⁴τ} is gone there for x > 0.02


def absorption(offset: Tensor, T2: Tensor, lineshape: Lineshape) -> Tensor:
    r"""Return the absorption line G of a semisolid pool, elementwise.

    RF of amplitude ω1 = γB1 saturates the pool at the rate π ω1² G. With x = 2π·f·T2,
    all normalised to ∫ G dω = 1:

    - lorentzian: G = T2/π / (1 + x²),
    - gaussian: G = T2/√(2π) · e^{-x²/2},
    - superlorentzian: G = T2 √(2/π) ∫_0^1 |3u² - 1|⁻¹ exp(-2x²/(3u² - 1)²) du
      (Morrison & Henkelman 1995, eq. 8), here as
      2 T2/√(6π) · (∫_0^∞ e^{-2x² cosh⁴τ} dτ + ∫_{arsinh √½}^∞ e^{-2x² sinh⁴τ} dτ)
      with |3u² - 1| = 1/cosh²τ inside and 1/sinh²τ outside the magic angle.

    A super-Lorentzian diverges on resonance. Below 1.5 kHz it is continued by
    a + b·f² + c·f⁴ with the value, slope and curvature at 1.5 kHz (a cubic spline in
    Gloor 2008 and EPG-X), which is finite, even and twice differentiable. Relative to
    the integral the quadrature errs by 1e-11 for 0.02 < x < 3 and by 1e-8 at most for
    0.01 < x < 5; beyond, G is below e^{-12} of its height.

    Args:
        offset: offset f of the RF from the pool's resonance [Hz].
        T2: transverse relaxation time of the line [s], of a shape that broadcasts.
        lineshape: "superlorentzian", "lorentzian" or "gaussian".

    Returns:
        G [s], in the broadcast shape, even in the offset.

    Raises:
        ValueError: the line has another name.

    >>> import torch
    >>> from mrsim import epg
    >>> offset, T2 = torch.tensor([2e3, 1e4]), torch.tensor(12e-6)
    >>> 1e6 * epg.absorption(offset, T2, "superlorentzian")
    tensor([10.7945,  1.7376])
    """
    # one more axis: Python numbers keep the precision of tensors with axes only
    T2 = T2[..., None]
    square = (offset[..., None] * T2).square()
    if lineshape == "lorentzian":
        return (T2 / (math.pi + 4 * math.pi**3 * square))[..., 0]
    if lineshape == "gaussian":
        line = torch.exp(-2 * math.pi**2 * square) * T2
        return (line / math.sqrt(2 * math.pi))[..., 0]
    if lineshape == "superlorentzian":
        return _superlorentzian(square, T2)
    raise ValueError(
        f"absorption: there is no lineshape {lineshape!r}; choose one of"
        f" {', '.join(get_args(Lineshape))}"
    )


def _superlorentzian(square: Tensor, T2: Tensor) -> Tensor:
    cut = (_CUT * T2).square()
    far = torch.where(square > cut, square, cut)
    near = square - far  # 0 beyond the cut
    line, slope, curve = _line(far, 0), _line(cut, 1), _line(cut, 2)
    return (T2 * (line + near * slope + near.square() * curve / 2))[..., 0]


def _line(y: Tensor, order: int) -> Tensor:
    """Return a derivative of Σ w e^{-rate·y}; its own derivatives are such sums too."""
    value, slope = partial(_sum, order), partial(_slope, order)
    return _remat.apply(_remat.Segment(value, 1, push=slope), y)


def _slope(order: int, y: Tensor, way: Tensor) -> Tensor:
    return way * _sum(order + 1, y)


def _sum(order: int, y: Tensor) -> Tensor:
    """Sum in slices that stay in the cache: 96 exponentials of every y."""
    # made on the CPU: on meta, new_tensor detaches in place, which jvp forbids
    made = (torch.tensor(v, dtype=y.dtype).to(y.device) for v in _rule(order))
    rates, weights = made
    # e^-80 is nothing here, and what underflows is slow
    parts = [
        torch.exp((-x[:, None] * rates).clamp(min=-80.0)) @ weights
        for x in y.reshape(-1).split(_SLICE)
    ]
    return torch.cat(parts).reshape(y.shape)


@lru_cache
def _rule(order: int) -> tuple[list[float], list[float]]:
    """Return rates and weights of a derivative of G/T2 = Σ w exp(-(f T2)² rate)."""
    scale = 2 / math.sqrt(6 * math.pi)
    inside = _gauss_legendre(_NODES[0], 0.0, _REACH)
    outside = _gauss_legendre(_NODES[1], math.asinh(math.sqrt(0.5)), _REACH)
    rates = [8 * math.pi**2 * math.cosh(t) ** 4 for t, _ in inside]
    rates += [8 * math.pi**2 * math.sinh(t) ** 4 for t, _ in outside]
    nodes = zip(rates, inside + outside, strict=True)
    return rates, [scale * w * (-rate) ** order for rate, (_, w) in nodes]


def _gauss_legendre(count: int, low: float, high: float) -> list[tuple[float, float]]:
    """Return nodes and weights on an interval, by Newton steps on P_n."""
    made = []
    for i in range(count):
        x, slope = math.cos(math.pi * (i + 0.75) / (count + 0.5)), 1.0
        for _ in range(8):
            p, before = x, 1.0
            for n in range(2, count + 1):
                p, before = ((2 * n - 1) * x * p - (n - 1) * before) / n, p
            slope = count * (x * p - before) / (x * x - 1)
            x -= p / slope
        weight = (high - low) / ((1 - x * x) * slope**2)
        made.append((low + (high - low) * (x + 1) / 2, weight))
    return made
