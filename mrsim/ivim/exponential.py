"""IVIM as sums of exponentials: two, two with Dp → ∞, three."""

import torch
from torch import Tensor

from mrsim.ivim._signal import mixed, model
from mrsim.ivim.acquisition import Acquisition, check_inputs
from mrsim.tree import neutral, record


@record
class Biexp:
    """Two compartments: S0 [f exp(−b Dp) + (1 − f) exp(−b D + (b D)² K/6)].

    ``Dp`` is the FULL exponent of the blood (elsewhere D*), D < Dp. With ``K`` it is
    the kurtosis model, with relaxation times each compartment is weighted by
    exp(−TE/T2) and (1 − exp(−TR/T1)) (Lemke 2010, Magn Reson Med 64:1580).
    """

    S0: Tensor | None = neutral(1.0)  # () signal at b = 0 [signal units]
    f: Tensor  # () perfusion fraction [1]
    Dp: Tensor  # () pseudo-diffusion coefficient of the blood [mm²/s]
    D: Tensor  # () diffusion coefficient of the tissue [mm²/s]
    K: Tensor | None = neutral(0.0)  # () kurtosis of the tissue [1]
    T1b: Tensor | None = None  # () longitudinal relaxation time of blood [s]
    T1t: Tensor | None = None  # () longitudinal relaxation time of tissue [s]
    T2b: Tensor | None = None  # () transverse relaxation time of blood [s]
    T2t: Tensor | None = None  # () transverse relaxation time of tissue [s]


@record
class Simplified:
    """sIVIM: blood that gives signal only at exactly b = 0 (Dp → ∞).

    S0 [f·(b = 0) + (1 − f) exp(−b D + (b D)² K/6)], for b = 0 and b ≳ 200 s/mm²
    (Jalnefjord 2018, MAGMA 31:715).
    """

    S0: Tensor | None = neutral(1.0)  # () signal at b = 0 [signal units]
    f: Tensor  # () perfusion fraction [1]
    D: Tensor  # () diffusion coefficient of the tissue [mm²/s]
    K: Tensor | None = neutral(0.0)  # () kurtosis of the tissue [1]
    T1b: Tensor | None = None  # () longitudinal relaxation time of blood [s]
    T1t: Tensor | None = None  # () longitudinal relaxation time of tissue [s]
    T2b: Tensor | None = None  # () transverse relaxation time of blood [s]
    T2t: Tensor | None = None  # () transverse relaxation time of tissue [s]


@record
class Triexp:
    """Three compartments: S0 [f1 exp(−b D1) + f2 exp(−b D2) + (1−f1−f2) exp(−b D0)].

    Cercueil 2015 (Eur Radiol 25:1541).
    """

    S0: Tensor | None = neutral(1.0)  # () signal at b = 0 [signal units]
    f1: Tensor  # () fraction of the first blood compartment [1]
    f2: Tensor  # () fraction of the second blood compartment [1]
    D1: Tensor  # () pseudo-diffusion coefficient of the first [mm²/s]
    D2: Tensor  # () pseudo-diffusion coefficient of the second [mm²/s]
    D0: Tensor  # () diffusion coefficient of the tissue [mm²/s]


@model.register
def _(params: Biexp, acquisition: Acquisition) -> Tensor:
    check_inputs(params, acquisition)
    return mixed(params, acquisition, torch.exp(-acquisition.b * params.Dp))


@model.register
def _(params: Simplified, acquisition: Acquisition) -> Tensor:
    check_inputs(params, acquisition)
    return mixed(params, acquisition, (acquisition.b == 0).to(acquisition.b.dtype))


@model.register
def _(params: Triexp, acquisition: Acquisition) -> Tensor:
    check_inputs(params, acquisition)
    first, second, tissue = (
        torch.exp(-acquisition.b * d) for d in (params.D1, params.D2, params.D0)
    )
    s = params.f1 * first + params.f2 * second + (1 - params.f1 - params.f2) * tissue
    return s if params.S0 is None else params.S0 * s
