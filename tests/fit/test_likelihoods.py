"""Priors, weights, Rician magnitudes, several starts, and whole images."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, vmap

import mrsim
from mrsim import Tissue, noise
from mrsim.fit import (
    Fit,
    Prior,
    from_starts,
    levenberg_marquardt,
    maps,
    variable_projection,
)
from mrsim.fit.likelihood import gaussian, rician
from mrsim.tree import tree_map

ECHOES = torch.arange(1, 9, dtype=torch.float64) * 0.012
START = Tissue(T1=1.0, T2=0.06, M0=1.0)


def decay(tissue: Tissue, t: Tensor) -> Tensor:
    return tissue.M0 * (-t / tissue.T2).exp()


def noisy(generator: torch.Generator, count: int, sigma: float) -> Tensor:
    clean = (-ECHOES / 0.08).exp()
    return clean + sigma * torch.randn(count, 8, generator=generator)


def many(fit: Callable[..., Fit], data: Tensor, start: Any = START) -> Fit:
    return vmap(fit, (0, None, None))(data, start, ECHOES)


# Priors and weights


def posterior(p: Tissue, y: Tensor, sigma: Tensor, mean: float, sd: float) -> Tensor:
    fit = ((decay(p, ECHOES) - y) / sigma).square().sum() / 2
    return fit + ((p.T2.log() - mean) / sd) ** 2 / 2


def test_mode_of_the_posterior_has_no_gradient(generator: torch.Generator) -> None:
    data, mean, sd = noisy(generator, 5, 0.1), math.log(0.05), 0.2
    fit = levenberg_marquardt(
        decay,
        "M0",
        "T2",
        sigma=0.1,
        prior={"T2": Prior(mean, sd, torch.log)},
        tolerance=1e-10,
    )
    found = many(fit, data)
    assert found.converged.all()
    width = torch.tensor(0.1)
    for k in range(5):
        p = mrsim.tree.tree_map(lambda v, k=k: v[k], found.params)
        slope = grad(posterior)(p, data[k], width, mean, sd)
        assert abs(slope.M0) < 1e-6
        assert abs(slope.T2 * p.T2) < 1e-6
        value = posterior(p, data[k], width, mean, sd)
        torch.testing.assert_close(found.cost[k], value)
    free = many(levenberg_marquardt(decay, "M0", "T2", sigma=0.1), data)
    pulled = (found.params.T2.log() - mean).abs() < (free.params.T2.log() - mean).abs()
    assert pulled.all()
    assert (found.covariance[:, 1, 1] < free.covariance[:, 1, 1]).all()


def test_prior_alone_determines_what_the_signal_does_not_tell(
    generator: torch.Generator,
) -> None:
    data = noisy(generator, 3, 0.01)
    known = {"T1": Prior(1.3, 0.2), "T2": Prior(0.08, 10.0)}
    fit = levenberg_marquardt(decay, "M0", "T2", "T1", sigma=0.01, prior=known)
    found = many(fit, data)
    assert found.converged.all()
    torch.testing.assert_close(found.params.T1, torch.full((3,), 1.3))
    torch.testing.assert_close(found.covariance[:, 2, 2], torch.full((3,), 0.04))
    free = many(levenberg_marquardt(decay, "M0", "T2", sigma=0.01), data)
    torch.testing.assert_close(found.params.T2, free.params.T2, rtol=1e-6, atol=0)


def test_derivatives_with_respect_to_prior_and_noise(
    generator: torch.Generator,
) -> None:
    data = noisy(generator, 1, 0.1)[0]

    def T2(z: Tensor) -> Tensor:
        known = {"T2": Prior(z[0], z[1], torch.log)}
        fit = levenberg_marquardt(
            decay, "M0", "T2", sigma=z[2], prior=known, tolerance=1e-12
        )
        return fit(data, START, ECHOES).params.T2

    z = torch.tensor([-2.9, 0.2, 0.1])
    h = 1e-6 * torch.eye(3)
    wanted = torch.stack([(T2(z + e) - T2(z - e)) / 2e-6 for e in h])
    torch.testing.assert_close(jacfwd(T2)(z), wanted, rtol=1e-6, atol=1e-10)
    torch.testing.assert_close(jacrev(T2)(z), wanted, rtol=1e-6, atol=1e-10)
    means = torch.tensor([-2.9, -2.5])
    both = vmap(lambda m: T2(torch.stack([m, z[1], z[2]])))(means)
    torch.testing.assert_close(both[0], T2(z))
    assert both[1] > both[0]


def test_samples_are_weighted_by_their_noise(generator: torch.Generator) -> None:
    widths = torch.linspace(0.01, 0.2, 8)
    unit = torch.randn(4000, 8, generator=generator)
    data = (-ECHOES / 0.08).exp() + widths * unit
    fit = levenberg_marquardt(decay, "M0", "T2", sigma=widths, bounds={"T2": (0.01, 1)})
    found = many(fit, data)
    plain = levenberg_marquardt(decay, "M0", "T2", sigma=widths.numpy())
    listed = levenberg_marquardt(decay, "M0", "T2", sigma=widths.tolist())
    for other in (plain, listed):
        again = other(data[0], START, ECHOES).covariance
        torch.testing.assert_close(again, found.covariance[0])
    truth = Tissue(T1=1.0, T2=0.08, M0=1.0)
    bound = mrsim.crlb(decay, "M0", "T2", sigma=widths)(truth, ECHOES)
    assert 0.9 < float(found.params.T2.var() / bound.T2) < 1.15
    errors = (found.params.T2 - 0.08).square() / found.covariance[:, 1, 1]
    assert 0.85 < float(errors.mean()) < 1.15


# Rician


def test_rician_fit_is_the_maximum_and_removes_the_bias(
    generator: torch.Generator,
) -> None:
    sigma, truth = 0.15, Tissue(T1=1.0, T2=0.05, M0=1.0)
    unit = torch.randn(3000, 8, 2, generator=generator)
    data = noise.rician(decay(truth, ECHOES).expand(3000, 8), unit, sigma)
    bounds = {"M0": (0.0, 5.0), "T2": (0.005, 1.0)}
    fit = levenberg_marquardt(
        decay, "M0", "T2", sigma=sigma, likelihood="rician", bounds=bounds
    )
    found = many(fit, data)
    inside = ~found.at_bound.any(1)
    assert found.converged[inside].double().mean() > 0.99
    plain = many(levenberg_marquardt(decay, "M0", "T2", bounds=bounds), data)
    biased = plain.params.T2.median() - 0.05
    assert biased > 0.005
    assert (found.params.T2.median() - 0.05).abs() < 0.3 * biased

    def cost(p: Tissue, y: Tensor) -> Tensor:
        return -rician(y, decay(p, ECHOES), sigma).sum()

    some = torch.nonzero(inside & found.converged)[:20, 0]
    p = mrsim.tree.tree_map(lambda v: v[some], found.params)
    slope = vmap(grad(cost))(p, data[some])
    sds = found.covariance[some].diagonal(dim1=1, dim2=2).sqrt()
    assert (slope.T2.abs() * sds[:, 1]).max() < 1e-4
    assert (slope.M0.abs() * sds[:, 0]).max() < 1e-4


def test_rician_fit_has_exact_derivatives(generator: torch.Generator) -> None:
    unit = torch.randn(8, 2, generator=generator)
    data = noise.rician((-ECHOES / 0.08).exp(), unit, 0.1)
    fit = levenberg_marquardt(
        decay, "M0", "T2", sigma=0.1, likelihood="rician", tolerance=1e-12
    )

    def pair(y: Tensor) -> Tensor:
        found = fit(y, START, ECHOES)
        return torch.stack([found.params.T2, found.cost])

    h = 1e-6 * torch.eye(8)
    wanted = torch.stack([(pair(data + e) - pair(data - e)) / 2e-6 for e in h], 1)
    torch.testing.assert_close(jacfwd(pair)(data), wanted, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(jacrev(pair)(data), wanted, rtol=1e-5, atol=1e-8)


# Several starts


def test_the_best_start_wins_in_every_voxel() -> None:
    def wave(tissue: Tissue, t: Tensor) -> Tensor:
        return (2 * math.pi * tissue.df * t).cos()

    t = torch.linspace(0, 1, 40)
    df = torch.tensor([2.3, 5.1, 9.7])
    data = (2 * math.pi * df.unsqueeze(-1) * t).cos()
    starts = mrsim.grid(Tissue(T1=1.0, T2=0.1), df=torch.arange(1.0, 12.0))
    one = levenberg_marquardt(wave, "df", bounds={"df": (0.0, 15.0)})
    fit = from_starts(one)
    found = vmap(fit, (0, None, None))(data, starts, t)
    torch.testing.assert_close(found.params.df, df, rtol=1e-6, atol=0)
    assert found.converged.all()
    alone = vmap(one, (0, None, None))(
        data, mrsim.replace(START, df=torch.tensor(6.0)), t
    )
    assert ((alone.params.df - df).abs() > 0.1).any()
    slope = jacrev(lambda y: fit(y, starts, t).params.df)(data[0])
    assert slope.isfinite().all()
    assert slope.abs().max() > 0
    holes = torch.where(torch.arange(3).unsqueeze(-1) == 1, math.nan, data)
    spoilt = vmap(fit, (0, None, None))(holes, starts, t)
    assert spoilt.params.df.isnan().tolist() == [False, True, False]


# Images


def image(generator: torch.Generator) -> tuple[Tensor, Tensor, Tissue]:
    """Return data (4, 5, sample), a mask, and a start with a map of B1."""
    B1 = torch.linspace(0.8, 1.2, 20).reshape(4, 5)
    T2 = torch.linspace(0.05, 0.1, 20).reshape(4, 5)
    clean = B1.unsqueeze(-1) * (-ECHOES / T2.unsqueeze(-1)).exp()
    data = clean + 0.01 * torch.randn(4, 5, 8, generator=generator)
    row, column = torch.arange(4).unsqueeze(-1), torch.arange(5)
    data = torch.where(((row == 1) & (column == 2)).unsqueeze(-1), math.nan, data)
    return data, (row != 0).expand(4, 5), mrsim.replace(START, B1=B1)


def scaled(tissue: Tissue, t: Tensor) -> Tensor:
    return tissue.B1 * decay(tissue, t)


def test_maps_fit_the_mask_in_chunks(generator: torch.Generator) -> None:
    data, mask, start = image(generator)
    fit = levenberg_marquardt(scaled, "M0", "T2")
    found = maps(fit, data, start, ECHOES, mask=mask, chunk=4)
    whole = maps(fit, data, start, ECHOES)
    assert found.params.T2.shape == found.converged.shape == (4, 5)
    assert found.covariance.shape == (4, 5, 2, 2)
    assert found.params.T2[0].isnan().all()
    assert not found.converged[0].any()
    assert torch.equal(found.iterations[0], torch.zeros(5, dtype=torch.long))
    torch.testing.assert_close(
        found.params.T2[1:], whole.params.T2[1:], rtol=1e-12, atol=0, equal_nan=True
    )
    assert found.params.T2.isnan().sum() == 6
    assert (found.converged.sum(), whole.converged.sum()) == (14, 19)
    assert torch.equal(found.params.B1[1:], start.B1[1:])
    amplitude = found.params.M0[found.converged]
    assert (amplitude - 1).abs().max() < 0.1
    one = maps(
        fit, data[2, 3], tree_map(lambda v: v[2, 3] if v.ndim else v, start), ECHOES
    )
    torch.testing.assert_close(one.params.T2, whole.params.T2[2, 3])


class KilledError(Exception):
    pass


def test_finished_chunks_survive_a_kill(
    generator: torch.Generator, tmp_path: Path
) -> None:
    data, mask, start = image(generator)
    fit, calls = variable_projection(scaled, "T2"), [0]

    def dying(*given: Any) -> Fit:
        calls[0] += 1
        if calls[0] > limit:
            raise KilledError
        return fit(*given)

    limit = 2
    known = {"mask": mask, "chunk": 4, "folder": tmp_path}
    with pytest.raises(KilledError):
        maps(dying, data, start, ECHOES, **known)
    assert len(list(tmp_path.iterdir())) == 2
    limit = 5  # two chunks are left
    found = maps(dying, data, start, ECHOES, **known)
    whole = maps(fit, data, start, ECHOES, mask=mask, chunk=4)
    assert torch.equal(found.params.T2.nan_to_num(), whole.params.T2.nan_to_num())
    assert calls[0] == 5
    with pytest.raises(ValueError, match="other data"):
        maps(fit, data + 1, start, ECHOES, **known)
    next(iter(sorted(tmp_path.iterdir()))).write_bytes(b"torn")
    with pytest.raises(ValueError, match="damaged"):
        maps(fit, data, start, ECHOES, **known)


def test_numbers_are_those_of_the_data_in_double_precision() -> None:
    data = (-ECHOES / 0.08).exp() + 0.01 * torch.cos(ECHOES * 99)
    known: Any = {"sigma": 0.1, "prior": {"T2": Prior(0.1, 0.3)}}
    fit = levenberg_marquardt(decay, "M0", "T2", **known)
    wide = fit(data, START, ECHOES)
    torch.set_default_dtype(torch.float32)
    try:
        narrow = fit(data, START, ECHOES)
    finally:
        torch.set_default_dtype(torch.float64)
    assert torch.equal(wide.covariance, narrow.covariance)
    assert torch.equal(wide.params.T2, narrow.params.T2)


def test_whole_numbers_have_no_density() -> None:
    counts = torch.tensor([1, 2])
    for density in (gaussian, rician):
        with pytest.raises(TypeError, match="floating-point"):
            density(counts, torch.ones(2), 0.5)


def test_misuse_is_explained(generator: torch.Generator) -> None:
    data, mask, start = image(generator)
    fit = levenberg_marquardt(scaled, "M0", "T2")
    with pytest.raises(ValueError, match=r"shape \(4, 5\), got \(4,\)"):
        maps(fit, data, start, ECHOES, mask=mask[:, 0])
    with pytest.raises(ValueError, match="empty"):
        maps(fit, data, start, ECHOES, mask=mask & ~mask)
    with pytest.raises(ValueError, match="chunk must be positive"):
        maps(fit, data, start, ECHOES, chunk=0)
    with pytest.raises(ValueError, match="likelihood must be"):
        levenberg_marquardt(decay, likelihood="poisson")  # pyright: ignore
    with pytest.raises(ValueError, match="give sigma"):
        levenberg_marquardt(decay, likelihood="rician")
    with pytest.raises(ValueError, match="give sigma"):
        levenberg_marquardt(decay, prior={"T2": Prior(0.0, 1.0)})
    known = {"df": Prior(0.0, 1.0)}
    with pytest.raises(ValueError, match="a prior is given for 'df'"):
        levenberg_marquardt(decay, "T2", sigma=1.0, prior=known)(
            data[2, 0], START, ECHOES
        )
