"""Maximum likelihood of magnitudes, and the mode of the posterior."""

import math
from functools import partial

import pytest
import torch
from ivim.fit_data import NAMES, PRIOR, B, Q, column, magnitude, phantom
from torch import Tensor
from torch.func import vmap

from mrsim import ivim

# ---------------------------------------------------------------- likelihood


@pytest.mark.parametrize("coils", [1, 4])
def test_likelihood_is_at_its_maximum(coils: int, generator: torch.Generator) -> None:
    y, _ = magnitude(60, 0.08, generator, coils)
    found = ivim.maximum_likelihood(
        y, Q, sigma=0.08, coils=coils, starts=2, tolerance=1e-6, iterations=200
    )

    def cost(x: Tensor, y: Tensor) -> Tensor:
        p = ivim.Biexp(**dict(zip(NAMES, x, strict=True)))
        return -ivim.noncentral_chi(y, ivim.signal(p, Q), 0.08, coils).sum()

    x = torch.stack([getattr(found.params, n) for n in NAMES], -1)
    torch.testing.assert_close(vmap(cost)(x, y), found.cost)
    slope = vmap(torch.func.grad(cost))(x, y) * torch.tensor([1.0, 1.0, 0.05, 1e-3])
    inside = found.converged.unsqueeze(-1) & ~found.at_bound
    assert inside.double().mean() > 0.6
    assert slope[inside].abs().amax() < 1e-2


def test_likelihood_is_unbiased_where_least_squares_is_not(
    generator: torch.Generator,
) -> None:
    truth = ivim.Biexp(S0=1.0, f=0.2, Dp=0.05, D=2e-3)
    clean, sigma = ivim.signal(truth, Q), 0.1
    noise = sigma * torch.randn(2000, len(B), 2, generator=generator)
    y = torch.hypot(clean + noise[..., 0], noise[..., 1])
    plain = ivim.varpro(y, Q, starts=2).params.D.median()
    found = ivim.maximum_likelihood(y, Q, sigma=sigma).params.D.median()
    assert plain < 1.8e-3
    assert abs(found - 2e-3) < 0.6 * abs(plain - 2e-3)


@pytest.mark.parametrize("coils", [0, 1, 2])
def test_the_noise_is_told_by_the_misfit(
    coils: int, generator: torch.Generator
) -> None:
    make = phantom if not coils else partial(magnitude, coils=coils)
    y, _ = make(250, 0.06, generator)
    y[3] = math.nan
    found = ivim.noise_level(y, Q, coils=coils)
    assert abs(float(found) / 0.06 - 1) < 0.06


def test_the_noise_is_the_same_where_bounds_overlap(
    generator: torch.Generator,
) -> None:
    y, _ = magnitude(120, 0.06, generator)
    wide = {"D": (0.0, 0.1), "Dp": (0.0, 0.2)}
    found, same = (ivim.noise_level(y, Q, coils=1, bounds=x) for x in (None, wide))
    assert abs(float(same / found) - 1) < 0.05


def test_unknown_sigma_is_estimated(generator: torch.Generator) -> None:
    y, _ = magnitude(400, 0.05, generator)
    guessed = ivim.maximum_likelihood(y, Q)
    given = ivim.maximum_likelihood(y, Q, sigma=0.05)
    ratio = guessed.covariance[:, 3, 3] / given.covariance[:, 3, 3]
    assert abs(ratio.nanmedian().sqrt() - 1) < 0.1


# ------------------------------------------------------------ posterior mode


def test_mode_minimises_misfit_and_prior(generator: torch.Generator) -> None:
    y, _ = phantom(30, 0.05, generator)
    box = {"S0": (0.5, 1.5)}
    found = ivim.posterior_mode(
        y, Q, prior=PRIOR, sigma=0.05, bounds=box, tolerance=1e-7, iterations=100
    )
    low, high = (torch.tensor([ivim.limits(box)[n][k] for n in NAMES]) for k in (0, 1))

    def cost(u: Tensor, y: Tensor) -> Tensor:
        x = low + (high - low) * u.sigmoid()
        p = ivim.Biexp(**dict(zip(NAMES, x, strict=True)))
        misfit = (ivim.signal(p, Q) - y).square().sum() / 0.05**2
        return (misfit + (u - PRIOR.mean).square().sum()) / 2

    x = torch.stack([getattr(found.params, n) for n in NAMES], -1)
    u = torch.logit((x - low) / (high - low))
    torch.testing.assert_close(vmap(cost)(u, y), found.cost)
    assert vmap(torch.func.grad(cost))(u, y).abs().amax() < 1e-3
    assert found.converged.all()


def test_learnt_prior_is_the_population(generator: torch.Generator) -> None:
    mean, sd = column(-1.5, -1.0, -1.2), column(0.4, 0.3, 0.5)
    u = mean + sd * torch.randn(3000, 3, generator=generator)
    box = ivim.limits(fixed=["S0"])
    low, high = (torch.tensor([box[n][k] for n in NAMES[1:]]) for k in (0, 1))
    x = low + (high - low) * u.sigmoid()
    p = ivim.Biexp(S0=torch.ones(3000), **dict(zip(NAMES[1:], x.mT, strict=True)))
    clean = vmap(ivim.signal, in_dims=(0, None))(p, Q)
    y = clean + 0.01 * torch.randn(clean.shape, generator=generator)
    prior = ivim.learn_prior(y, Q, fixed={"S0": 1.0})
    assert (prior.mean - mean).abs().amax() < 0.1
    assert (prior.covariance.diagonal().sqrt() / sd - 1).abs().amax() < 0.2
    first = ivim.learn_prior(y, Q, fixed={"S0": 1.0}, rounds=0)
    assert (first.covariance.diagonal() > prior.covariance.diagonal()).all()
