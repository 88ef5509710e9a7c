"""Small closed-form signal models of records, to test what takes functions."""

import torch
from torch import Tensor

import mrsim


@mrsim.record
class Voxel:
    """Everything that a model below may depend on."""

    M0: Tensor | None = None
    T1: Tensor | None = None
    T2: Tensor | None = None
    B1: Tensor | None = mrsim.neutral(1.0)
    eff: Tensor | None = mrsim.neutral(1.0)
    A: Tensor | None = None
    B: Tensor | None = None
    S0: Tensor | None = None
    f: Tensor | None = None
    Dstar: Tensor | None = None
    D: Tensor | None = None


@mrsim.record
class Samples:
    """What is chosen for each sample, and what all samples share."""

    x: Tensor
    TR: Tensor | None = None


def monoexp(v: Voxel, d: Samples) -> Tensor:
    return v.M0 * torch.exp(-d.x / v.T2)


def adc(v: Voxel, d: Samples) -> Tensor:
    return v.S0 * torch.exp(-d.x * v.D)


def spgr(v: Voxel, d: Samples) -> Tensor:
    e1 = torch.exp(-d.TR / v.T1)
    angle = d.x if v.B1 is None else v.B1 * d.x
    return v.M0 * angle.sin() * (1 - e1) / (1 - e1 * angle.cos())


def ir(v: Voxel, d: Samples) -> Tensor:
    recovered = 0.0 if d.TR is None else torch.exp(-d.TR / v.T1)
    eff = 1.0 if v.eff is None else v.eff
    return v.M0 * (1 - 2 * eff * torch.exp(-d.x / v.T1) + recovered)


def sr(v: Voxel, d: Samples) -> Tensor:
    return v.M0 * (1 - torch.exp(-d.x / v.T1))


def ir3(v: Voxel, d: Samples) -> Tensor:
    return v.A - v.B * torch.exp(-d.x / v.T1)


def ivim(v: Voxel, d: Samples) -> Tensor:
    return v.S0 * (v.f * torch.exp(-d.x * v.Dstar) + (1 - v.f) * torch.exp(-d.x * v.D))
