"""Voxels of the bi-exponential model, which tests of IVIM fits share."""

from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from mrsim import ivim

B = [0.0, 5.0, 10.0, 20.0, 40.0, 80.0, 150.0, 300.0, 500.0, 800.0]
Q = ivim.Acquisition(b=B)
NAMES = ("S0", "f", "Dp", "D")


def column(*values: float) -> Tensor:
    return torch.tensor(values)


def phantom(count: int, sigma: float, generator: torch.Generator) -> Any:
    """Return voxels with noise, and their truth."""
    u = torch.rand(4, count, generator=generator)
    truth = ivim.Biexp(
        S0=0.8 + 0.4 * u[0],
        f=0.05 + 0.4 * u[1],
        Dp=0.01 + 0.08 * u[2],
        D=5e-4 + 2e-3 * u[3],
    )
    clean = vmap(ivim.signal, in_dims=(0, None))(truth, Q)
    return clean + sigma * torch.randn(clean.shape, generator=generator), truth


def magnitude(
    count: int, sigma: float, generator: torch.Generator, coils: int = 1
) -> Any:
    y, truth = phantom(count, 0.0, generator)
    noise = sigma * torch.randn(*y.shape, 2 * coils, generator=generator)
    channels = noise + torch.nn.functional.pad(y.unsqueeze(-1), (0, 2 * coils - 1))
    return channels.norm(dim=-1), truth


PRIOR = ivim.Prior(mean=column(0.0, -1.0, -1.0, -0.5), covariance=torch.eye(4))
