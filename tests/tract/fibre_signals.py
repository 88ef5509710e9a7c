"""Signals of known fibres, and MRtrix's deconvolution of them."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mrsim import tract

B = torch.tensor(3000.0)
AXIAL, RADIAL = torch.tensor(1.7e-3), torch.tensor(3e-4)
HIGH = {"axial": AXIAL, "radial": RADIAL}


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def noisy(clean: Tensor, snr: float, generator: torch.Generator) -> Tensor:
    noise = torch.randn(2, *clean.shape, generator=generator) / snr
    return ((clean + noise[0]) ** 2 + noise[1] ** 2).sqrt()


def shell(count: int, generator: torch.Generator) -> tuple[Tensor, tract.CSD]:
    """Return signals (voxel, 60) of two fibres, and how to deconvolve them."""
    g = tract.hemisphere(60)
    u = unit(torch.randn(count, 2, 3, generator=generator))
    cosine = torch.einsum("vfk,gk->vfg", u, g)
    signal = (-B * (RADIAL + (AXIAL - RADIAL) * cosine**2)).exp().mean(1)
    response = tract.tensor_response(B, **HIGH)
    return noisy(signal, 30, generator), tract.CSD(directions=g, response=response)


def shells(count: int, generator: torch.Generator) -> tuple[Tensor, tract.MSMT]:
    """Return signals (voxel, 66) of fibres, grey matter and fluid."""
    b = torch.cat([torch.full((n,), x) for n, x in ((4, 0.0), (22, 1e3), (40, 3e3))])
    g = torch.cat([tract.hemisphere(n) for n in (4, 22, 40)])
    u = unit(torch.randn(count, 3, generator=generator))
    fibre = (-b * (RADIAL + (AXIAL - RADIAL) * (u @ g.mT) ** 2)).exp()
    balls = torch.stack([(-b * 8e-4).exp(), (-b * 3e-3).exp()])
    share = torch.rand(count, 3, generator=generator)
    share = share / share.sum(-1, keepdim=True)
    clean = share[:, :1] * fibre + share[:, 1:] @ balls
    isotropic = (4 * torch.pi) ** 0.5 * balls.mT
    responses = tract.tensor_response(b, **HIGH, lmax=6)
    q = tract.MSMT(directions=g, fibre=responses, isotropic=isotropic, lmax=6)
    return noisy(clean, 30, generator), q


def slope(f: Any, x: Tensor, way: Tensor, step: float) -> Tensor:
    near, far = (f(x + s * way) - f(x - s * way) for s in (step, 2 * step))
    return (8 * near - far) / (12 * step)


def dwi2fod(folder: Path, *words: str) -> None:
    subprocess.run(
        ["dwi2fod", *words, "-nthreads", "0", "-quiet"],
        cwd=folder,
        check=True,
        capture_output=True,
    )


def put_image(path: Path, signals: Tensor, g: Tensor, b: Tensor) -> Tensor:
    nib = pytest.importorskip("nibabel")
    values = signals.float().reshape(-1, 1, 1, signals.shape[-1])
    nib.save(nib.Nifti1Image(values.numpy(), np.eye(4)), path)
    np.savetxt(path.with_suffix(".b"), np.c_[g.numpy(), b.numpy()])
    d = tract.hemisphere(300)
    table = np.c_[torch.atan2(d[:, 1], d[:, 0]).numpy(), d[:, 2].arccos().numpy()]
    np.savetxt(path.with_suffix(".dirs"), table, fmt="%.17g")
    return signals.float().double()


def read(path: Path) -> Tensor:
    nib = pytest.importorskip("nibabel")
    return torch.from_numpy(nib.load(path).get_fdata()).flatten(0, 2)


needs_mrtrix = pytest.mark.skipif(
    shutil.which("dwi2fod") is None, reason="needs MRtrix3 (apt-get install mrtrix3)"
)
