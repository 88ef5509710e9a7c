"""The posterior on a grid, against closed forms and brute force."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import vmap

import mrsim
from mrsim import ivim
from mrsim.tree import tree_map

B = [0.0, 10.0, 40.0, 100.0, 250.0, 500.0, 800.0]
Q = ivim.Acquisition(b=B)
ONE = ivim.Biexp(S0=1.0, f=0.2, Dp=0.04, D=0.001)


def axis(low: float, high: float, count: int) -> Tensor:
    return low + (high - low) * (torch.arange(count) + 0.5) / count


def points(**more: Any) -> Any:
    axes = {
        "f": axis(0.0, 0.5, 25),
        "Dp": axis(0.01, 0.1, 20),
        "D": axis(0.0, 0.003, 30),
    }
    return mrsim.grid(ONE, **{**axes, **more})


def data(count: int, sigma: float, generator: torch.Generator) -> Tensor:
    clean = ivim.signal(ONE, Q)
    return clean + sigma * torch.randn(count, len(B), generator=generator)


def brute(y: Tensor, grid: Any, log: Any, weights: Tensor | None = None) -> Any:
    s = vmap(ivim.signal, in_dims=(0, None))(grid, Q)
    value = log(y.unsqueeze(1), s).sum(-1)
    p = (value + (0 if weights is None else weights.log())).softmax(-1)
    x = torch.stack([grid.f, grid.Dp, grid.D], -1)
    mean = p @ x
    return mean, (p @ x.square() - mean.square()).sqrt()


@pytest.mark.parametrize("coils", [0, 1, 3])
def test_it_is_the_posterior(coils: int, generator: torch.Generator) -> None:
    y, sigma = data(6, 0.1, generator).abs(), 0.1
    grid = points()
    weights = torch.rand(len(grid.f), generator=generator) + 0.1

    def log(y: Tensor, s: Tensor) -> Tensor:
        if coils:
            return ivim.noncentral_chi(y, s, sigma, coils)
        return ivim.gaussian(y, s, sigma)

    found = ivim.grid_posterior(y, Q, grid, sigma=sigma, weights=weights, coils=coils)
    mean, sd = brute(y, grid, log, weights)
    for k, name in enumerate(("f", "Dp", "D")):
        torch.testing.assert_close(getattr(found.mean, name), mean[:, k])
        torch.testing.assert_close(getattr(found.sd, name), sd[:, k])
    torch.testing.assert_close(found.mean.S0, torch.ones(6))
    assert found.sd.S0 is None


def test_a_free_scale_is_integrated_over(generator: torch.Generator) -> None:
    y = 1.2 * data(5, 0.05, generator)
    found = ivim.grid_posterior(y, Q, points(), sigma=0.06, free_S0=True)
    axes = {"f": axis(0.0, 0.5, 25), "Dp": axis(0.01, 0.1, 20), "D": axis(0, 0.003, 30)}
    fine = mrsim.grid(ONE, S0=axis(0.4, 2.2, 60), **axes)
    slow = ivim.grid_posterior(y, Q, fine, sigma=0.06)
    for name in ("f", "Dp", "D"):
        made, wanted = getattr(found.mean, name), getattr(slow.mean, name)
        torch.testing.assert_close(made, wanted, rtol=1e-3, atol=0.0)


def test_little_noise_gives_the_truth_and_the_bound() -> None:
    sigma = 1e-3
    grid = mrsim.grid(
        ONE,
        f=axis(0.18, 0.22, 60),
        Dp=axis(0.034, 0.046, 60),
        D=axis(0.00095, 0.00105, 60),
    )
    found = ivim.grid_posterior(ivim.signal(ONE, Q), Q, grid, sigma=sigma)
    bound = mrsim.covariance(ivim.fisher("f", "Dp", "D", sigma=sigma)(ONE, Q))
    for k, name in enumerate(("f", "Dp", "D")):
        sd = bound[k, k].sqrt()
        assert abs(getattr(found.sd, name) / sd - 1) < 0.02
        assert abs(getattr(found.mean, name) - getattr(ONE, name)) < 0.1 * sd


def test_no_estimator_beats_its_mean(generator: torch.Generator) -> None:
    count, sigma = 300, 0.05
    u = torch.rand(3, count, generator=generator)
    truth = ivim.Biexp(
        S0=torch.ones(count), f=0.5 * u[0], Dp=0.01 + 0.09 * u[1], D=0.003 * u[2]
    )
    clean = vmap(ivim.signal, in_dims=(0, None))(truth, Q)
    y = clean + sigma * torch.randn(clean.shape, generator=generator)
    found = ivim.grid_posterior(y, Q, points(), sigma=sigma)
    others = [
        ivim.varpro(y, Q, bounds={"S0": (1.0, 1.0)}, starts=2).params,
        ivim.posterior_mode(y, Q, sigma=sigma, fixed={"S0": 1.0}).params,
        ivim.segmented(y, Q).params,
    ]

    def rmse(p: Any, name: str) -> Tensor:
        return (getattr(p, name) - getattr(truth, name)).square().mean().sqrt()

    for name in ("f", "Dp", "D"):
        assert all(rmse(found.mean, name) < 1.01 * rmse(p, name) for p in others)
        off = (getattr(found.mean, name) - getattr(truth, name)).abs()
        covered = (off <= getattr(found.sd, name)).double().mean()
        assert 0.56 < covered < 0.77


def test_images_chunks_and_bad_voxels(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    y, grid = data(6, 0.05, generator), points()
    whole = ivim.grid_posterior(y, Q, grid, sigma=0.05).mean.Dp
    monkeypatch.setattr("mrsim.ivim._grid_posterior._ENTRIES", 2 * len(grid.f))
    y = y.clone()
    y[4, 2] = math.nan
    again = ivim.grid_posterior(y.reshape(2, 3, -1), Q, grid, sigma=0.05, progress=True)
    assert again.mean.Dp.shape == again.sd.f.shape == (2, 3)
    flat = again.mean.Dp.flatten()
    assert flat[4].isnan()
    torch.testing.assert_close(flat[[0, 1, 2, 3, 5]], whole[[0, 1, 2, 3, 5]])


def test_single_precision(generator: torch.Generator) -> None:
    y, grid = data(6, 0.05, generator), points()
    wanted = ivim.grid_posterior(y, Q, grid, sigma=0.05)
    single = [tree_map(lambda x: x.float(), x) for x in (y, Q, grid)]
    found = ivim.grid_posterior(*single, sigma=0.05)
    assert found.mean.f.dtype == torch.float32
    torch.testing.assert_close(found.mean.f.double(), wanted.mean.f, rtol=1e-3, atol=0)
    torch.testing.assert_close(found.sd.Dp.double(), wanted.sd.Dp, rtol=1e-2, atol=0)


def test_a_free_scale_needs_gaussian_noise() -> None:
    with pytest.raises(ValueError, match="Gaussian"):
        ivim.grid_posterior(
            torch.ones(2, len(B)), Q, points(), sigma=0.1, coils=1, free_S0=True
        )
