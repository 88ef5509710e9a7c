"""Likelihoods and their information, against scipy and against their definitions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from scipy import integrate, special, stats
from strategies import log_uniform
from torch import Tensor
from torch.func import grad, hessian, jacfwd, vmap

import mrsim
from mrsim import ivim, noise
from mrsim.fit.bessel import log_bessel_scaled, shortfall

ARGUMENTS = [0.0, 1e-9, 1e-3, 0.5, 0.999, 1.001, 7.0, 49.9, 50.1, 300.0, 4e3, 1e5, 1e8]
COILS = [1, 2, 4, 8, 32]


def near(a: Tensor, b: object, rtol: float, atol: float = 0.0) -> None:
    torch.testing.assert_close(a, torch.as_tensor(b), rtol=rtol, atol=atol)


# ------------------------------------------------------------------------- Bessel


def test_log_i0_and_ratio_everywhere() -> None:
    x = torch.tensor(ARGUMENTS)
    i0, i1 = special.i0e(x.numpy()), special.i1e(x.numpy())
    near(ivim.log_i0(x), np.log(i0) + x.numpy(), 1e-14, 1e-15)
    near(ivim.bessel_ratio(x), i1 / i0, 1e-14)
    near(ivim.log_i0(-x), ivim.log_i0(x), 1e-15)
    near(ivim.bessel_ratio(-x), -ivim.bessel_ratio(x), 1e-15)
    huge = torch.tensor([1e300, -1e300])
    assert ivim.log_i0(huge).isfinite().all()
    near(ivim.bessel_ratio(huge), [1.0, -1.0], 1e-15)


@pytest.mark.parametrize("order", [1, 3, 7, 31])
def test_higher_orders(order: int) -> None:
    x = torch.tensor([0.3, 2.0, 30.0, 60.0, 500.0, 950.0, 970.0, 5e3, 1e6])
    ratio = special.ive(order + 1, x.numpy()) / special.ive(order, x.numpy())
    near(ivim.bessel_ratio(x, order), ratio, 1e-12)
    slope = vmap(grad(lambda x: log_bessel_scaled(x, order)))(x)
    near(slope + 1, ratio, 1e-10)
    start = log_bessel_scaled(torch.zeros(()), order)
    inner = [integrate.quad(ratio_of(order), 0, v, epsabs=1e-13)[0] for v in (2.0, 30)]
    near(log_bessel_scaled(x[1:3], order) + x[1:3] - start, inner, 1e-11)


def ratio_of(order: int) -> object:
    return lambda x: special.ive(order + 1, x) / special.ive(order, x) if x else 0.0


@pytest.mark.parametrize("order", [0, 1, 7])
def test_derivatives_of_the_bessel_functions(order: int) -> None:
    x = torch.tensor(ARGUMENTS)

    def log_bessel(x: Tensor) -> Tensor:
        return log_bessel_scaled(x, order) + x

    first = ivim.bessel_ratio(x, order)
    near(vmap(grad(log_bessel))(x), first, 1e-13, 1e-15)
    # I'' / I from Bessel's equation; it cancels where x is large or small
    middle = slice(2, 8)
    wanted = 1 - first**2 - (2 * order + 1) * first / x
    near(vmap(grad(grad(log_bessel)))(x)[middle], wanted[middle], 1e-11, 1e-12)
    for composed in (hessian(log_bessel), grad(jacfwd(log_bessel))):
        near(vmap(composed)(x), vmap(grad(grad(log_bessel)))(x), 1e-9, 1e-14)
    assert float(hessian(log_bessel)(x[0])) == pytest.approx(0.5 / (order + 1))
    far = vmap(grad(grad(log_bessel)))(x[-2:])
    near(far, (order + 0.5) / x[-2:] ** 2, 1e-3)
    third = vmap(grad(grad(grad(log_bessel))))(x)
    assert third.isfinite().all()
    assert abs(float(third[0])) < 1e-12
    assert abs(float(third[1])) < 1e-6


def test_single_precision() -> None:
    x = torch.tensor(ARGUMENTS)
    small = x.float()
    for order in (0, 3, 31):
        exact = log_bessel_scaled(x, order)
        near(log_bessel_scaled(small, order).double(), exact, 1e-5, 1e-6)
        near(shortfall(small, order).double(), shortfall(x, order), 1e-4, 0)
        assert log_bessel_scaled(small, order).dtype == torch.float32


# ---------------------------------------------------------------------- densities


@given(m=log_uniform(1e-3, 60), s=st.floats(0, 50), sigma=log_uniform(0.01, 5))
def test_densities_are_those_of_scipy(m: float, s: float, sigma: float) -> None:
    data, signal = torch.tensor(m * sigma), torch.tensor(s * sigma)
    scale = {"scale": sigma}
    wanted = stats.norm.logpdf(m * sigma, s * sigma, **scale)
    assert float(ivim.gaussian(data, signal, sigma)) == pytest.approx(wanted, rel=1e-12)
    wanted = (
        math.log(m / sigma) - (m - s) ** 2 / 2 + math.log(special.i0e(m * s))
    )  # scipy.stats.rice loses digits
    assert float(ivim.rician(data, signal, sigma)) == pytest.approx(wanted, abs=1e-11)


@pytest.mark.parametrize("coils", COILS)
def test_density_integrates_to_one(coils: int) -> None:
    for s in (0.0, 0.7, 6.0, 300.0):
        middle = math.sqrt(s**2 + 2 * coils)
        m = torch.linspace(max(middle - 12, 1e-9), middle + 12, 4001)
        p = ivim.noncentral_chi(m, torch.full_like(m, s), 1.0, coils).exp()
        assert float(torch.trapezoid(p, m)) == pytest.approx(1, abs=1e-5)
    wanted = stats.chi(2 * coils, scale=3.0).logpdf([2.0, 20.0])
    made = ivim.noncentral_chi(torch.tensor([2.0, 20.0]), torch.zeros(2), 3.0, coils)
    near(made, wanted, 1e-12)


def test_no_magnitude_is_negative() -> None:
    data = torch.tensor([-0.1, 0.0, torch.nan, 1.0])

    def total(s: Tensor) -> Tensor:
        return ivim.rician(data, s, 0.5)

    made = total(torch.ones(4))
    assert made[:2].tolist() == [-math.inf] * 2
    assert made.isfinite().tolist() == [False, False, False, True]
    assert made[2].isnan()
    slope = grad(lambda s: total(s).sum())(torch.ones(4))
    assert slope.isfinite().all()


def test_likelihood_at_high_snr_keeps_its_digits() -> None:
    data, signal = torch.tensor(1e5 + 0.5), torch.tensor(1e5)
    wanted = float(ivim.gaussian(data, signal, 1.0))
    assert float(ivim.rician(data, signal, 1.0)) == pytest.approx(wanted, abs=1e-4)
    small = ivim.rician(data.float() / 1e3, signal.float() / 1e3, 1e-3)
    assert float(small - math.log(1e3)) == pytest.approx(wanted, abs=0.05)


def test_coils_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        ivim.noncentral_chi(torch.ones(1), torch.ones(1), 1.0, 0)


# -------------------------------------------------------------------- information


@pytest.mark.parametrize("coils", [0, *COILS])
@pytest.mark.parametrize("s", [0.2, 1.5, 9.0])
def test_information_is_the_variance_of_the_score(coils: int, s: float) -> None:
    sigma = 1.7
    theta = torch.tensor([s * sigma, sigma])

    def log_p(theta: Tensor, m: Tensor) -> Tensor:
        if coils:
            return ivim.noncentral_chi(m, theta[0], theta[1], coils)
        return ivim.gaussian(m, theta[0], theta[1])

    middle = math.sqrt(s**2 + 2 * max(coils, 0.01))
    ends = (-10 if not coils else max(middle - 10, 1e-12)), middle + 10
    m = torch.linspace(*ends, 6001) * sigma
    score = vmap(grad(log_p), in_dims=(None, 0))(theta, m)
    p = vmap(log_p, in_dims=(None, 0))(theta, m).exp()
    squares = score.unsqueeze(-1) * score.unsqueeze(-2)
    wanted = torch.trapezoid(p[:, None, None] * squares, m, dim=0)
    near(ivim.information(theta[0], theta[1], coils), wanted, 2e-5, 1e-6)


@pytest.mark.parametrize("coils", COILS)
def test_information_has_all_its_derivatives(coils: int) -> None:
    def g(a: Tensor) -> Tensor:
        return ivim.information(a, 1.0, coils)[0, 0]

    for a in (0.0, 0.4, 2.5, 20.0):
        x, step = torch.tensor(a), 1e-3
        ahead, here, behind = (float(g(x + t)) for t in (step, 0, -step))
        slope = float(grad(g)(x))
        assert slope == pytest.approx((ahead - behind) / (2 * step), abs=1e-6)
        bend = (ahead - 2 * here + behind) / step**2
        assert float(hessian(g)(x)) == pytest.approx(bend, abs=1e-5)
    assert float(g(torch.tensor(1e4))) == pytest.approx(1, abs=1e-6)


def test_moments_are_those_of_the_noise(generator: torch.Generator) -> None:
    unit = torch.randn(200_000, 2, generator=generator)
    for s in (0.0, 1.0, 4.0):
        drawn = noise.rician(torch.full((200_000,), s), unit, 0.8)
        mean, variance = ivim.moments(torch.tensor(s), 0.8)
        assert float(drawn.mean()) == pytest.approx(float(mean), abs=0.006)
        assert float(drawn.var()) == pytest.approx(float(variance), rel=0.02)
    mean, variance = ivim.moments(torch.tensor([3.0]), 0.5, coils=0)
    assert (mean.tolist(), variance.tolist()) == ([3.0], [0.25])


# ------------------------------------------------------------------- Fisher, CRLB

NAMES = ("S0", "f", "Dp", "D")
VOXEL = ivim.Biexp(S0=1.0, f=0.2, Dp=0.05, D=1e-3)
Q = ivim.Acquisition(b=[0.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 400.0, 800.0])


@pytest.mark.parametrize("coils", [0, 1, 4])
def test_fisher_with_fitted_sigma(coils: int) -> None:
    jacobian = mrsim.jac(ivim.signal, *NAMES)(VOXEL, Q)
    columns = torch.stack([getattr(jacobian, n) for n in NAMES], -1)
    both = torch.zeros(9, 2, 5)
    both[:, 0, :4], both[:, 1, 4] = columns, 1.0
    repeats = torch.arange(1.0, 10.0)
    each = ivim.information(ivim.signal(VOXEL, Q), 0.2, coils) * repeats[:, None, None]
    wanted = (both.mT @ each @ both).sum(0)
    made = ivim.fisher(*NAMES, "sigma", sigma=0.2, coils=coils)(VOXEL, Q, repeats)
    near(made, wanted, 1e-10, 1e-10)
    bound = ivim.crlb(*NAMES, nuisance=["sigma"], sigma=0.2, coils=coils)
    variances = bound(VOXEL, Q, repeats)
    inverse = mrsim.covariance(wanted).diagonal()
    near(torch.stack([getattr(variances, n) for n in NAMES]), inverse[:4], 1e-8)


def test_fisher_is_the_mean_hessian_of_the_likelihood() -> None:
    def surprise(x: Tensor, m: Tensor) -> Tensor:
        p = ivim.Biexp(**dict(zip(NAMES, x, strict=True)))
        return -ivim.rician(m, ivim.signal(p, Q), 0.1).sum()

    x = torch.stack([getattr(VOXEL, n) for n in NAMES])
    unit = torch.randn(4000, 9, 2, generator=torch.Generator().manual_seed(1))
    data = noise.rician(ivim.signal(VOXEL, Q).expand(4000, 9), unit, 0.1)
    mean = vmap(hessian(surprise), in_dims=(None, 0))(x, data).mean(0)
    exact = ivim.fisher(*NAMES, sigma=0.1, coils=1)(VOXEL, Q)
    scale = exact.diagonal().sqrt()
    near(mean / scale / scale[:, None], exact / scale / scale[:, None], 0, 0.03)


def test_rician_bound_moves_from_gaussian_as_noise_grows() -> None:
    ratios = []
    for sigma in (1e-4, 0.05, 0.2):
        one, other = (
            ivim.crlb(*NAMES, sigma=sigma, coils=c)(VOXEL, Q).D for c in (1, 0)
        )
        ratios.append(float(one / other))
    assert ratios[0] == pytest.approx(1, abs=1e-5)
    assert 1 < ratios[1] < ratios[2]


def test_bound_has_gradients_and_keeps_voxels_apart() -> None:
    bound = ivim.crlb("f", "D", nuisance=["S0", "Dp", "sigma"], sigma=0.1, coils=1)

    def of_b(b: Tensor) -> Tensor:
        return bound(VOXEL, ivim.Acquisition(b=b)).f

    slope = grad(of_b)(Q.b)
    step = torch.eye(9)[3] * 1e-2
    difference = (of_b(Q.b + step) - of_b(Q.b - step)) / 2e-2
    assert float(slope[3]) == pytest.approx(float(difference), rel=1e-5)
    many = mrsim.expand(VOXEL, 3)
    hole = torch.tensor([1.0, torch.nan, 1.0])
    made = vmap(bound, in_dims=(0, None))(mrsim.replace(many, f=many.f * hole), Q)
    assert made.D.isnan().tolist() == [False, True, False]


def test_sigma_is_no_parameter() -> None:
    with pytest.raises(ValueError, match="name it as a nuisance"):
        ivim.crlb("f", "sigma", sigma=0.1)


def test_noise_of_0_is_refused() -> None:
    for bound in (ivim.crlb, ivim.fisher):
        with pytest.raises(ValueError, match=f"ivim.{bound.__name__}: sigma must be"):
            bound("f", sigma=0.0)
