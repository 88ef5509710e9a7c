"""Diffusion in a spin-echo train, whose orders are every other one."""

from typing import Literal

import pytest
import torch
from torch import pi

from mrsim import Tissue, epg
from mrsim.tree import replace
from mrsim.units import deg, ms


@pytest.mark.parametrize("path", ["torch", "auto"])
def test_every_echo_loses_what_its_gradients_take(
    path: Literal["torch", "auto"],
) -> None:
    """With 180° pulses alone, exp(-D κ² esp/3) an echo (Carr and Purcell 1954)."""
    tissue = Tissue(T1=1.0, T2=0.1, D=2e-3)
    train = epg.fse_program(epg.FSE(flip=[pi] * 8, esp=8 * ms))
    kappa = torch.tensor([60.0])
    with epg.use_engine(path):
        made = epg.run(tissue, replace(train, moment=kappa))
    n = torch.arange(1, 9)
    wanted = torch.exp(-n * 8 * ms * (1 / tissue.T2 + tissue.D * kappa**2 / 3))
    torch.testing.assert_close(made.real, wanted, rtol=1e-12, atol=0)


def test_stimulated_echoes_fade_on_both_paths_alike() -> None:
    tissue = Tissue(T1=1.0, T2=0.1, D=2e-3)
    train = epg.fse_program(epg.FSE(flip=[120 * deg] * 7, esp=8 * ms))
    program = replace(train, moment=torch.tensor([60.0]))
    made = epg.run(tissue, program)
    with epg.use_engine("torch"):
        wanted = epg.run(tissue, program)
    torch.testing.assert_close(made, wanted, rtol=1e-12, atol=1e-14)
