"""A cheap model with the traits of fingerprints: smooth, low rank, two unknowns."""

import torch
from torch import Tensor

from mrsim import Tissue, match

TIMES = torch.linspace(0.02, 3.0, 60, dtype=torch.float64)
RANGES = {"T1": (0.2, 4.0), "T2": (0.02, 0.5)}


def signal(tissue: Tissue, t: Tensor) -> Tensor:
    inverted = 1 - 2 * torch.exp(-t / tissue.T1)
    return inverted * torch.exp(-t / (8 * tissue.T2)) + torch.sin(3 * t) * torch.exp(
        -t / (4 * tissue.T2)
    )


def turning(tissue: Tissue, t: Tensor) -> Tensor:
    """The same, with a phase that depends on the tissue."""
    angle = 2 * t * tissue.T1
    return torch.polar(signal(tissue, t).abs() + 0.1, angle)


def atoms(count: int, dtype: torch.dtype = torch.float64, **options) -> match.Atoms:
    base = Tissue(T1=torch.tensor(1.0, dtype=dtype), T2=torch.tensor(0.1, dtype=dtype))
    return match.sobol(base, count, log=("T1", "T2"), **RANGES, **options)


def noisy(d: match.Dictionary, index: Tensor, noise: float, seed: int = 0) -> Tensor:
    """Signals of atoms with a complex scale, and noise of a share of their norm."""
    source = torch.Generator().manual_seed(seed)
    s = match.coefs(d._replace(basis=None, real=False), index)
    s = s.to(s.dtype.to_complex())
    scale = torch.randn(len(index), 2, generator=source, dtype=torch.float64)
    unit = torch.randn(*s.shape, 2, generator=source, dtype=torch.float64)
    sigma = noise * s.abs().square().mean(1, keepdim=True).sqrt() / 2**0.5
    made = s + sigma * torch.view_as_complex(unit)
    return (made * torch.view_as_complex(scale)[:, None]).to(s.dtype)
