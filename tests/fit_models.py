"""Decays, their data and starts, which tests of fits share."""

from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

import mrsim
from mrsim import Tissue

ECHOES = torch.arange(1, 9, dtype=torch.float64) * 0.012


def decay(tissue: Tissue, t: Tensor) -> Tensor:
    return tissue.M0 * (-t / tissue.T2).exp()


def noisy(count: int, sigma: float, generator: torch.Generator) -> tuple[Any, Tensor]:
    truth = mrsim.grid(
        Tissue(T1=1.0, T2=0.08, M0=1.0), T2=torch.linspace(0.03, 0.15, count)
    )
    clean = vmap(decay, in_dims=(0, None))(truth, ECHOES)
    noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype)
    return truth, clean + sigma * noise


def start(count: int, **values: float) -> Tissue:
    return mrsim.expand(Tissue(**{"T1": 1.0, "T2": 0.05, "M0": 2.0} | values), count)
