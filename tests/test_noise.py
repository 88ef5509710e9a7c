"""Noise as an argument."""

import math

import pytest
import torch
from torch.func import grad, vmap

from mrsim import noise


def test_gaussian_noise_has_sigma_in_each_channel(generator: torch.Generator) -> None:
    signal = torch.full((20_000,), 1 - 2j)
    unit = torch.randn(20_000, 2, generator=generator)
    error = noise.gaussian(signal, unit, 0.3) - signal
    assert torch.equal(error, (signal + 0.3 * torch.view_as_complex(unit)) - signal)
    for channel in (error.real, error.imag):
        assert channel.std() == pytest.approx(0.3, rel=0.03)
    real = noise.gaussian(signal.real, unit[:, 0], 0.3)
    assert torch.equal(real, signal.real + 0.3 * unit[:, 0])


@pytest.mark.parametrize("level", [0.0, 2.0])
def test_rician_noise_has_the_moments_of_rice(
    level: float, generator: torch.Generator
) -> None:
    signal = torch.polar(torch.full((50_000,), level), torch.linspace(0, 6, 50_000))
    unit = torch.randn(50_000, 2, generator=generator)
    made = noise.rician(signal, unit, 0.5)
    assert (made**2).mean() == pytest.approx(level**2 + 2 * 0.5**2, rel=0.02)
    if not level:
        assert made.mean() == pytest.approx(0.5 * math.sqrt(math.pi / 2), rel=0.02)
    assert torch.equal(noise.rician(signal.abs(), unit, 0.0), signal.abs())


def test_noise_is_a_function_of_its_arguments(generator: torch.Generator) -> None:
    signal, unit = torch.ones(4, 3), torch.randn(4, 3, 2, generator=generator)
    mapped = vmap(noise.rician, in_dims=(0, 0, None))(signal, unit, torch.tensor(0.2))
    assert torch.equal(mapped, noise.rician(signal, unit, 0.2))
    slope = grad(lambda s: noise.gaussian(signal, unit[..., 0], s).sum())
    assert slope(torch.tensor(0.2)) == pytest.approx(unit[..., 0].sum().item())
    single = noise.rician(signal.float(), unit.float(), 0.2)
    assert single.dtype == torch.float32


def test_sigma_follows_from_the_ratio() -> None:
    assert noise.snr2sigma(50.0, level=2.0) == 0.04
    made = noise.snr2sigma(torch.tensor([2.0, 4.0]))
    assert torch.equal(made, torch.tensor([0.5, 0.25]))


@pytest.mark.parametrize("add", [noise.gaussian, noise.rician])
def test_a_wrong_shape_says_what_to_draw(add: object) -> None:
    with pytest.raises(ValueError, match=r"shape \(4, 2\) .* torch.randn\(4, 2\)"):
        add(torch.ones(4, dtype=torch.complex128), torch.ones(4), 0.1)
