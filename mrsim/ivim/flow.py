"""IVIM of flowing blood: diffusive, ballistic, and everything between."""

import math

import torch
from torch import Tensor

from mrsim.ivim._signal import mixed, model
from mrsim.ivim.acquisition import Acquisition, check_inputs, needed
from mrsim.tree import neutral, record

DB = 1.75e-3
"""Diffusion coefficient of blood at 37 °C [mm²/s] (Jalnefjord 2019)."""

_SERIES = 2.0  # arguments below it go through a Taylor series
_TERMS = 24


@record
class Diffusive:
    """Blood that turns often: S0 [f exp(−b (Dstar + Db)) + (1 − f) exp(−b D)].

    Dstar + Db is the Dp of `Biexp`.
    """

    S0: Tensor | None = neutral(1.0)  # () signal at b = 0 [signal units]
    f: Tensor  # () perfusion fraction [1]
    Dstar: Tensor  # () pseudo-diffusion coefficient without Db [mm²/s]
    D: Tensor  # () diffusion coefficient of the tissue [mm²/s]
    Db: Tensor | None = neutral(DB)  # () diffusion coefficient of blood [mm²/s]
    K: Tensor | None = neutral(0.0)  # () kurtosis of the tissue [1]
    T1b: Tensor | None = None  # () longitudinal relaxation time of blood [s]
    T1t: Tensor | None = None  # () longitudinal relaxation time of tissue [s]
    T2b: Tensor | None = None  # () transverse relaxation time of blood [s]
    T2t: Tensor | None = None  # () transverse relaxation time of tissue [s]


@record
class Ballistic:
    """Blood that flows straight: S0 [f exp(−b Db − (c v)²/6) + (1 − f) exp(−b D)].

    Flow-compensated samples have c = 0 (Ahlgren 2016, NMR Biomed 29:144).
    """

    S0: Tensor | None = neutral(1.0)  # () signal at b = 0 [signal units]
    f: Tensor  # () perfusion fraction [1]
    v: Tensor  # () root mean square speed of the blood in 3-D [mm/s]
    D: Tensor  # () diffusion coefficient of the tissue [mm²/s]
    Db: Tensor | None = neutral(DB)  # () diffusion coefficient of blood [mm²/s]
    K: Tensor | None = neutral(0.0)  # () kurtosis of the tissue [1]
    T1b: Tensor | None = None  # () longitudinal relaxation time of blood [s]
    T1t: Tensor | None = None  # () longitudinal relaxation time of tissue [s]
    T2b: Tensor | None = None  # () transverse relaxation time of blood [s]
    T2t: Tensor | None = None  # () transverse relaxation time of tissue [s]


@record
class Intermediate:
    """Blood whose velocity is forgotten as exp(−t/tau), for any tau.

    S0 [f exp(−b Db − b v² ψ/3) + (1 − f) exp(−b D)], ψ as in `memory`: tau for a short
    memory (`Diffusive` with Dstar = v² tau/3), about Delta/2 for a long one
    (`Ballistic`). Pulsed gradients, one pair of lobes or (with ``T`` and ``k``) two.
    Wetscherek 2015 (Magn Reson Med 74:410).
    """

    S0: Tensor | None = neutral(1.0)  # () signal at b = 0 [signal units]
    f: Tensor  # () perfusion fraction [1]
    v: Tensor  # () root mean square speed of the blood in 3-D [mm/s]
    tau: Tensor  # () correlation time of the blood's velocity [s]
    D: Tensor  # () diffusion coefficient of the tissue [mm²/s]
    Db: Tensor | None = neutral(DB)  # () diffusion coefficient of blood [mm²/s]
    K: Tensor | None = neutral(0.0)  # () kurtosis of the tissue [1]
    T1b: Tensor | None = None  # () longitudinal relaxation time of blood [s]
    T1t: Tensor | None = None  # () longitudinal relaxation time of tissue [s]
    T2b: Tensor | None = None  # () transverse relaxation time of blood [s]
    T2t: Tensor | None = None  # () transverse relaxation time of tissue [s]


@model.register
def _(params: Diffusive, acquisition: Acquisition) -> Tensor:
    check_inputs(params, acquisition)
    exponent = acquisition.b * (params.Dstar + _blood(params))
    return mixed(params, acquisition, torch.exp(-exponent))


@model.register
def _(params: Ballistic, acquisition: Acquisition) -> Tensor:
    check_inputs(params, acquisition)
    c = needed("Ballistic", acquisition, "c")
    exponent = acquisition.b * _blood(params) + (c * params.v).square() / 6
    return mixed(params, acquisition, torch.exp(-exponent))


@model.register
def _(params: Intermediate, acquisition: Acquisition) -> Tensor:
    check_inputs(params, acquisition)
    psi = memory(params.tau, acquisition)
    rate = _blood(params) + params.v.square() * psi / 3
    return mixed(params, acquisition, torch.exp(-acquisition.b * rate))


def _blood(params: Diffusive | Ballistic | Intermediate) -> Tensor | float:
    return DB if params.Db is None else params.Db


def memory(tau: Tensor, acquisition: Acquisition) -> Tensor:
    """Return the time over which pulsed gradients see the blood keep its velocity.

    ψ = ∫∫ q(t) q(t') exp(−|t − t'|/tau) dt dt' / ∫∫ … of the white-noise limit, so that
    b v² ψ/3 is the exponent of the blood. With x = δ/tau, y = Δ/tau, the gap
    g = (T − 2(Δ + δ))/tau and φₙ(z) = Σⱼ (−z)ʲ/(j + n)!:

    ψ (Δ − δ/3) = Δ² [φ₂(y) + k/2 e^{−g} φ₁(x)² φ₁(y)²]
    + δ² [e^{−y} (φ₄(x) + φ₄(−x)) − 2 φ₄(x)],

    k = 0 for one pair of lobes. Nothing cancels for any tau > 0.

    Args:
        tau: () correlation time of the velocity [s].
        acquisition: with delta and Delta, and T and k for two pairs.

    Returns:
        (sample,) or () ψ [s].

    Raises:
        ValueError: the acquisition lacks a field.
    """
    short = needed("Intermediate", acquisition, "delta")
    apart = needed("Intermediate", acquisition, "Delta")
    x, y = short / tau, apart / tau
    lobes = _phi(4, x, y) + _phi(4, -x, y) - 2 * _phi(4, x)
    if acquisition.T is None:
        pairs = _phi(2, y)
    else:
        k = needed("Intermediate with T", acquisition, "k")
        gap = (acquisition.T - 2 * (apart + short)) / tau
        pairs = _two_pairs(x, y, gap, k)
    return (apart**2 * pairs + short**2 * lobes) / (apart - short / 3)


def _two_pairs(x: Tensor, y: Tensor, gap: Tensor, k: Tensor) -> Tensor:
    far = _phi(2, y) + k / 2 * torch.exp(-gap) * (_phi(1, x) * _phi(1, y)) ** 2
    # with k = -1 the leading terms cancel for a long memory: take them out by hand
    near = y < _SERIES
    x, y = torch.where(near, x, 0.0), torch.where(near, y, 0.0)
    logs = torch.log1p(-x * _phi(2, x)) + torch.log1p(-y * _phi(2, y))
    lost = -torch.expm1(2 * logs - gap)
    return torch.where(near, (1 + k) / 2 - y * _phi(3, y) - k / 2 * lost, far)


def _phi(n: int, z: Tensor, damping: Tensor | None = None) -> Tensor:
    """Return e^{−damping} φₙ(z) without cancellation or overflow."""
    near = z.abs() < _SERIES
    small, large = torch.where(near, z, 0.0), torch.where(near, _SERIES, z)
    series = torch.full_like(z, 1 / math.factorial(_TERMS + n))
    for j in reversed(range(_TERMS)):
        series = 1 / math.factorial(j + n) - small * series
    if damping is None:
        share, ratio = torch.ones_like(z), torch.exp(-large)
    else:
        share = torch.exp(-damping)
        series, ratio = series * share, torch.exp(-large - damping)
    for j in range(n):
        ratio = (share / math.factorial(j) - ratio) / large
    return torch.where(near, series, ratio)
