"""Levenberg-Marquardt: minima, bounds, covariance."""

import math

import pytest
import torch
from fit_models import ECHOES, decay, noisy, start
from hypothesis import given, strategies as st
from strategies import log_uniform
from torch import Tensor
from torch.func import vmap

import mrsim
from mrsim import Tissue
from mrsim.fit import levenberg_marquardt


def turning(tissue: Tissue, t: Tensor) -> Tensor:
    phase = 2 * math.pi * tissue.df * t
    return decay(tissue, t) * torch.complex(phase.cos(), phase.sin())


def recovery(tissue: Tissue, t: Tensor) -> Tensor:
    return tissue.M0 * (1 - 2 * (-t / tissue.T1).exp())


@given(log_uniform(0.02, 0.2), log_uniform(0.1, 10), log_uniform(0.3, 3))
def test_noise_free_data_recover_the_truth(T2: float, M0: float, factor: float) -> None:
    data = decay(Tissue(T1=1.0, T2=T2, M0=M0), ECHOES)
    guess = Tissue(T1=1.0, T2=T2 * factor, M0=M0 / factor)
    found = levenberg_marquardt(decay, "M0", "T2", bounds={"T2": (1e-3, 5.0)})(
        data, guess, ECHOES
    )
    assert found.converged
    assert abs(float(found.params.T2) / T2 - 1) < 1e-9
    assert abs(float(found.params.M0) / M0 - 1) < 1e-9


@given(log_uniform(0.02, 0.2), st.floats(-4, 4))
def test_complex_data_are_fitted_in_both_channels(T2: float, df: float) -> None:
    data = turning(Tissue(T1=1.0, T2=T2, M0=1.5, df=df), ECHOES)
    guess = Tissue(T1=1.0, T2=0.06, M0=1.0)
    found = levenberg_marquardt(turning, "M0", "T2", "df", bounds={"T2": (1e-3, 5)})(
        data, guess, ECHOES
    )
    assert found.converged
    assert abs(float(found.params.df) - df) < 1e-8


def test_minimum_has_no_gradient_and_keeps_other_fields(
    generator: torch.Generator,
) -> None:
    _, data = noisy(1, 0.05, generator)
    guess = Tissue(T1=1.3, T2=0.05, M0=2.0, df=7.0)
    found = levenberg_marquardt(decay, "M0", "T2")(data[0], guess, ECHOES)

    def cost(tissue: Tissue) -> Tensor:
        return (decay(tissue, ECHOES) - data[0]).square().sum() / 2

    slope = torch.func.grad(cost)(found.params)
    assert abs(slope.T2 * found.params.T2) < 1e-4 * found.cost
    assert abs(slope.M0 * found.params.M0) < 1e-4 * found.cost
    torch.testing.assert_close(found.cost, cost(found.params), rtol=1e-12, atol=0)
    assert (found.params.T1, found.params.df) == (guess.T1, guess.df)


def test_no_names_fit_every_present_field(generator: torch.Generator) -> None:
    @mrsim.record
    class Line:
        slope: Tensor
        offset: Tensor

    x = torch.linspace(0, 1, 9)
    y = 3 * x - 1 + 0.1 * torch.randn(9, generator=generator)
    found = levenberg_marquardt(lambda p, x: p.slope * x + p.offset)(
        y, Line(slope=0.0, offset=0.0), x
    )
    design = torch.stack([x, torch.ones_like(x)], 1)
    exact = torch.linalg.lstsq(design, y.unsqueeze(-1)).solution[:, 0]
    torch.testing.assert_close(
        torch.stack([found.params.slope, found.params.offset]), exact
    )


def test_fields_may_be_arrays(generator: torch.Generator) -> None:
    @mrsim.record
    class Mixture:
        weight: Tensor  # (component,)

    rates = torch.tensor([5.0, 20.0, 80.0])
    basis = (-ECHOES.unsqueeze(-1) * rates).exp()
    y = basis @ torch.tensor([0.5, 1.0, 0.2]) + 0.01 * torch.randn(
        8, generator=generator
    )
    bounds = {"weight": (torch.zeros(3), torch.full((3,), 0.9))}
    found = levenberg_marquardt(lambda p, a: a @ p.weight, "weight", bounds=bounds)(
        y, Mixture(weight=torch.full((3,), 0.3)), basis
    )
    w = found.params.weight
    slope = basis.mT @ (basis @ w - y)
    assert found.converged
    assert found.covariance.shape == (3, 3)
    assert ((w >= 0) & (w <= 0.9)).all()
    assert (slope[(w > 0) & (w < 0.9)].abs() < 1e-8).all()
    assert (slope[w == 0] >= 0).all()
    assert (slope[w == 0.9] <= 0).all()


@pytest.mark.parametrize(
    ("low", "high"),
    [(None, None), (0.09, None), (0.2, None), (None, 0.06), (None, 0.01)],
)
def test_bounds_hold_exactly_and_the_rest_is_optimal(
    low: float | None, high: float | None, generator: torch.Generator
) -> None:
    _, data = noisy(20, 0.02, generator)
    fit = levenberg_marquardt(decay, "M0", "T2", bounds={"T2": (low, high)})
    found = vmap(fit, in_dims=(0, 0, None))(data, start(20), ECHOES)
    T2 = found.params.T2
    assert found.converged.all()
    assert (T2 >= (low or 0)).all()
    assert (T2 <= (high or 1)).all()
    at = (T2 == low) if low else (T2 == high) if high else torch.zeros(20).bool()
    assert torch.equal(found.at_bound, torch.stack([torch.zeros(20).bool(), at], 1))
    assert at.any() == bool(low or high)
    shape = (-ECHOES / T2.unsqueeze(-1)).exp()
    M0 = (data * shape).sum(1) / shape.square().sum(1)
    torch.testing.assert_close(found.params.M0, M0, rtol=1e-5, atol=0)
    r = M0.unsqueeze(-1) * shape - data
    slope = (r * M0.unsqueeze(-1) * shape * ECHOES).sum(1)
    assert (slope[at] >= 0 if low else slope[at] <= 0).all()


def test_bounds_agree_with_scipy(generator: torch.Generator) -> None:
    from scipy.optimize import least_squares

    _, data = noisy(10, 0.1, generator)
    bounds = {"M0": (0.5, 1.05), "T2": (0.05, 0.09)}
    fit = levenberg_marquardt(decay, "M0", "T2", bounds=bounds)
    found = vmap(fit, in_dims=(0, 0, None))(data, start(10), ECHOES)
    te = ECHOES.numpy()
    for k in range(10):
        y = data[k].numpy()
        best = least_squares(
            lambda p, y=y: p[0] * torch.exp(torch.tensor(-te / p[1])).numpy() - y,
            [1.0, 0.07],
            bounds=([0.5, 0.05], [1.05, 0.09]),
            xtol=1e-14,
            ftol=1e-14,
            gtol=1e-14,
        )
        assert float(found.cost[k]) <= best.cost * (1 + 1e-9)


def test_parameter_without_effect_is_reported(generator: torch.Generator) -> None:
    _, data = noisy(1, 0.02, generator)
    found = levenberg_marquardt(decay, "M0", "T2", "T1")(data[0], start(1), ECHOES)
    assert not found.converged
    assert found.covariance[2, 2] == math.inf
    assert found.covariance[:2, :2].isfinite().all()
    reduced = levenberg_marquardt(decay, "M0", "T2")(data[0], start(1), ECHOES)
    torch.testing.assert_close(found.params.T2, reduced.params.T2)


def test_coupled_parameters_are_reported(generator: torch.Generator) -> None:
    def model(tissue: Tissue, t: Tensor) -> Tensor:
        return tissue.B1 * decay(tissue, t)

    _, data = noisy(4, 0.02, generator)
    fit = vmap(levenberg_marquardt(model, "M0", "T2", "B1"), (0, 0, None))
    found = fit(data, start(4), ECHOES)
    assert not found.converged.any()
    assert found.params.T2.isfinite().all()
    assert (found.covariance[:, [0, 2], [0, 2]] == math.inf).all()
    assert found.covariance[:, 1, 1].isfinite().all()


def test_covariance_is_the_bound_at_the_solution(generator: torch.Generator) -> None:
    _, data = noisy(6, 0.02, generator)
    fit = levenberg_marquardt(turning, "M0", "T2", "df", sigma=0.02)
    found = vmap(fit, (0, 0, None))(data.to(torch.complex128), start(6), ECHOES)
    bound = vmap(mrsim.crlb(turning, "M0", "T2", "df", sigma=0.02), (0, None))(
        found.params, ECHOES
    )
    variances = found.covariance.diagonal(dim1=1, dim2=2)
    expected = torch.stack([bound.M0, bound.T2, bound.df], 1)
    torch.testing.assert_close(variances, expected, rtol=1e-10, atol=0)
    estimated = vmap(levenberg_marquardt(turning, "M0", "T2", "df"), (0, 0, None))(
        data.to(torch.complex128), start(6), ECHOES
    )
    scale = 2 * found.cost / (16 - 3) / 0.02**2
    ratio = estimated.covariance / found.covariance
    torch.testing.assert_close(ratio[:, 0, 1], scale, rtol=1e-10, atol=0)


def test_as_many_parameters_as_samples_have_no_estimated_noise() -> None:
    t = ECHOES[:2]
    data = decay(Tissue(T1=1.0, T2=0.07, M0=1.0), t)
    found = levenberg_marquardt(decay, "M0", "T2")(data, start(1), t)
    assert found.covariance.diagonal().isinf().all()
    assert found.params.T2.item() == pytest.approx(0.07, rel=1e-9)


def test_variance_of_many_fits_is_the_bound(generator: torch.Generator) -> None:
    count, sigma = 4000, 0.01
    tissue = Tissue(T1=1.0, T2=0.08, M0=1.0)
    noise = torch.randn(count, 8, generator=generator)
    data = decay(tissue, ECHOES) + sigma * noise
    fit = levenberg_marquardt(decay, "M0", "T2", sigma=sigma)
    found = vmap(fit, (0, 0, None))(data, start(count), ECHOES)
    bound = mrsim.crlb(decay, "M0", "T2", sigma=sigma)(tissue, ECHOES)
    assert found.converged.all()
    for value, least in ((found.params.T2, bound.T2), (found.params.M0, bound.M0)):
        assert 0.9 < float(value.var() / least) < 1.1
    errors = (found.params.T2 - 0.08) / found.covariance[:, 1, 1].sqrt()
    assert 0.9 < float(errors.square().mean()) < 1.1
    chi2 = 2 * found.cost / sigma**2
    assert abs(float(chi2.mean()) - 6) < 0.3


def test_poor_starts_find_the_minimum_inside_bounds(generator: torch.Generator) -> None:
    _, data = noisy(300, 0.01, generator)
    exponent = torch.rand(300, 2, generator=generator)
    guess = mrsim.replace(
        start(300), T2=0.005 * 200 ** exponent[:, 0], M0=0.1 * 100 ** exponent[:, 1]
    )
    bounds = {"M0": (0.0, 100.0), "T2": (0.001, 5.0)}
    fit = vmap(levenberg_marquardt(decay, "M0", "T2", bounds=bounds), (0, 0, None))
    found, best = fit(data, guess, ECHOES), fit(data, start(300), ECHOES)
    assert found.converged.all()
    torch.testing.assert_close(found.params.T2, best.params.T2, rtol=1e-5, atol=0)


def test_start_outside_is_moved_into_the_bounds() -> None:
    data = decay(Tissue(T1=1.0, T2=0.08, M0=1.0), ECHOES)
    fit = levenberg_marquardt(decay, "M0", "T2", bounds={"M0": (0.5, 5.0)})
    found = fit(data, Tissue(T1=1.0, T2=0.05, M0=-3.0), ECHOES)
    assert found.params.T2.item() == pytest.approx(0.08)


def test_iterations_are_limited(generator: torch.Generator) -> None:
    _, data = noisy(3, 0.02, generator)
    fit = vmap(levenberg_marquardt(decay, "M0", "T2", iterations=1), (0, 0, None))
    found = fit(data, start(3), ECHOES)
    assert found.iterations.tolist() == [1, 1, 1]
    assert not found.converged.any()


def test_misuse_is_explained() -> None:
    data = decay(Tissue(T1=1.0, T2=0.08, M0=1.0), ECHOES)
    guess = Tissue(T1=1.0, T2=0.05, M0=2.0)
    fit = levenberg_marquardt(decay, "M0", "T2")
    with pytest.raises(
        ValueError, match=r"shape of the model's signal, \(8,\), got \(2, 8\)"
    ):
        fit(torch.stack([data, data]), guess, ECHOES)
    with pytest.raises(TypeError, match="complex128"):
        fit(data.to(torch.complex128), guess, ECHOES)
    with pytest.raises(TypeError, match=r"\.real"):
        levenberg_marquardt(turning, "M0", "df")(data, guess, ECHOES)
    with pytest.raises(TypeError, match="one precision"):
        fit(data.float(), guess, ECHOES)
    with pytest.raises(TypeError, match="floating-point"):
        fit(torch.arange(8), guess, ECHOES)
    with pytest.raises(TypeError, match="record"):
        fit(data, torch.ones(2), ECHOES)
    with pytest.raises(ValueError, match="S0"):
        levenberg_marquardt(decay, "S0")(data, guess, ECHOES)
    with pytest.raises(ValueError, match="bounds are given for 'T1'"):
        levenberg_marquardt(decay, "T2", bounds={"T1": (0, 1)})(data, guess, ECHOES)
    with pytest.raises(ValueError, match="lower ≤ upper"):
        levenberg_marquardt(decay, "T2", bounds={"T2": (1, 0)})(data, guess, ECHOES)
    with pytest.raises(ValueError, match="at least one sample"):
        fit(data[:0], guess, ECHOES[:0])
    with pytest.raises(ValueError, match="named twice"):
        levenberg_marquardt(decay, "T2", "T2")
    for name in ("sigma", "tolerance"):
        for value in (0.0, -1.0, math.nan):
            with pytest.raises(ValueError, match=f"{name} must be positive"):
                levenberg_marquardt(decay, "T2", **{name: value})
    with pytest.raises(ValueError, match=r"shape \(8,\), got shape \(2,\)"):
        levenberg_marquardt(decay, "T2", sigma=torch.ones(2))(data, guess, ECHOES)
    with pytest.raises(ValueError, match="make it an argument"):
        vmap(
            lambda b: levenberg_marquardt(lambda p, t: b * decay(p, t), "M0")(
                data, guess, ECHOES
            )
        )(torch.ones(2))
