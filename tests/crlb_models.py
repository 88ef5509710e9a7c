"""Signals with known bounds, which tests of the CRLB share."""

import math
from typing import Any

import torch
from models import Samples, Voxel
from torch import Tensor

import mrsim
from mrsim import Tissue, epg

TIMES = Samples(x=torch.tensor([0.01, 0.03, 0.06, 0.1, 0.2]))
VOXEL = Voxel(M0=1.3, T2=0.08)


def spiral(tissue: Tissue, seq: Samples) -> Tensor:
    """A complex signal of M0, T2, df and B1 (as a flip angle's scale)."""
    turn = torch.exp(2j * math.pi * tissue.df * seq.x)
    start = 1 if tissue.B1 is None else (tissue.B1 * (1 + 2 * seq.x)).sin()
    return tissue.M0 * start * torch.exp(-seq.x / tissue.T2) * turn


def scaled(tissue: Tissue, seq: Samples) -> Tensor:
    """A signal that knows M0 and B1 as a product only, and no T1."""
    return tissue.M0 * tissue.B1 * torch.exp(-seq.x / tissue.T2)


def stacked(x: Any, *names: str) -> Tensor:
    return torch.stack([getattr(x, n) for n in names])


def variance(flip: Tensor) -> Tensor:
    """Return the bound of T2 as a function of the flips: jac inside a transform."""
    seq = epg.FSE(flip=flip, esp=flip.new_tensor(0.01))
    tissue = mrsim.to(Tissue(T1=1.0, T2=0.1), flip.dtype)
    return mrsim.crlb(epg.fse, "M0", "T2", "B1", sigma=0.01)(tissue, seq).T2


def agree(made: Tensor, wanted: Tensor, rtol: float) -> None:
    assert (made - wanted).abs().max() < rtol * wanted.abs().max()
