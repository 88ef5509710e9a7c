"""Cramér-Rao bounds under transforms, and criteria over tissues."""

import math
from typing import Any

import pytest
import torch
from crlb_models import TIMES, VOXEL, agree, scaled, spiral, stacked, variance
from models import Samples, Voxel, monoexp
from torch import Tensor
from torch.func import grad, grad_and_value, hessian, jacfwd, jacrev, vmap

import mrsim
from mrsim import Tissue, epg
from mrsim.units import deg, ms

FLIPS = torch.tensor([2.8, 2.0, 1.6, 1.9])


def difference(f: Any, x: Tensor, step: float = 1e-4) -> Tensor:
    """Differentiate by central differences of fourth order."""
    steps = step * torch.eye(len(x))
    columns = [
        (8 * (f(x + s) - f(x - s)) - f(x + 2 * s) + f(x - 2 * s)) / (12 * step)
        for s in steps
    ]
    return torch.stack(columns, -1)


def test_first_and_second_derivatives() -> None:
    slope = difference(variance, FLIPS)
    agree(jacrev(variance)(FLIPS), slope, 1e-8)
    agree(jacfwd(variance)(FLIPS), slope, 1e-8)
    curvature = difference(grad(variance), FLIPS)
    for second in (hessian(variance), jacrev(jacrev(variance))):
        agree(second(FLIPS), curvature, 1e-8)


def test_third_derivatives() -> None:
    def part(x: Tensor) -> Tensor:
        return variance(torch.cat([x, FLIPS[2:]]))

    x = FLIPS[:2]
    wanted = difference(jacrev(jacrev(part)), x)
    agree(jacrev(jacrev(jacrev(part)))(x), wanted, 1e-8)
    agree(jacfwd(hessian(part))(x), wanted, 1e-8)


@pytest.mark.parametrize("transform", [lambda f: f, jacfwd, jacrev, hessian])
def test_vmap_is_a_loop(transform: Any, generator: torch.Generator) -> None:
    flips = FLIPS + 0.2 * torch.randn(3, 4, generator=generator)
    f = transform(variance)
    agree(vmap(f)(flips), torch.stack([f(x) for x in flips]), 1e-10)
    nested = vmap(vmap(f))(flips[None])[0]
    agree(nested, vmap(f)(flips), 1e-12)


@pytest.mark.parametrize("transform", [lambda f: f, jacfwd, jacrev, hessian])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bad_voxels_change_no_neighbour(transform: Any, dtype: torch.dtype) -> None:
    T2 = torch.tensor([0.05, math.nan, 0.1, 0.07, 0.2], dtype=dtype)
    M0 = torch.tensor([1.0, 1.0, 0.0, 2.0, math.inf], dtype=dtype)
    names = ("M0", "T2", "A")  # eigh accepts NaN in matrices smaller than 3 x 3

    def offset(voxel: Voxel, seq: Samples) -> Tensor:
        return monoexp(voxel, seq) + voxel.A

    def bounds(theta: Tensor) -> Tensor:
        voxel = Voxel(M0=theta[0], T2=theta[1], A=theta.new_tensor(0.1))
        bound = mrsim.crlb(offset, *names, sigma=0.1)
        return stacked(bound(voxel, mrsim.to(TIMES, dtype)), *names)

    f = transform(bounds)
    made = vmap(f)(torch.stack([M0, T2], 1))
    for k in (0, 3):
        wanted = f(torch.stack([M0[k], T2[k]]))
        agree(made[k], wanted, 1e-5 if dtype == torch.float32 else 1e-11)
    assert made[1].isnan().all()
    assert made[4].isnan().all()
    assert not made[2].isnan().any()
    if f is bounds:
        assert made[2].isinf().tolist() == [False, True, False]
    else:
        assert (made[2][1] == 0).all()


def test_gradients_reach_sigma_prior_and_weights() -> None:
    def cost(sigma: Tensor, sd: Tensor, weights: Tensor) -> Tensor:
        prior = {"T2": sd}
        bound = mrsim.crlb(
            monoexp, "M0", "T2", sigma=sigma, prior=prior, weights=weights
        )
        return bound(VOXEL, TIMES).T2

    at = (torch.tensor(0.1), torch.tensor(0.05), torch.ones(5))
    slopes = grad(cost, argnums=(0, 1, 2))(*at)
    assert slopes[0] > 0
    assert slopes[1] > 0
    assert (slopes[2] < 0).all()
    batch = tuple(x.expand(3, *x.shape) for x in at)
    agree(vmap(cost)(*batch), cost(*at).expand(3), 1e-12)


def test_transforms_are_silent() -> None:
    tissue = Tissue(T1=1.0, T2=0.1, M0=2.0, B1=1.1)
    bound = mrsim.crlb(scaled, "M0", "B1", "T1", sigma=0.01)

    def lost(x: Tensor) -> Tensor:
        return bound(tissue, Samples(x=x)).M0

    assert (grad(lost)(TIMES.x) == 0).all()
    assert (jacfwd(lost)(TIMES.x) == 0).all()
    assert vmap(lost)(TIMES.x.expand(2, 5)).isinf().all()


def test_a_lone_silent_unknown_in_a_transform_is_inf() -> None:
    tissue = Tissue(T1=1.0, T2=0.1, M0=2.0, B1=1.1)

    def lost(sigma: Tensor) -> Tensor:
        return mrsim.crlb(scaled, "T1", sigma=sigma)(tissue, TIMES).T1

    slope, value = grad_and_value(lost)(torch.tensor(0.1))
    assert (slope, value) == (0, math.inf)


# ---------------------------------------------------------------- criteria, batches


def test_average_and_worst_over_tissues() -> None:
    tissues = Tissue(T1=torch.full((3,), 1.0), T2=torch.tensor([0.04, 0.08, 0.16]))
    seq = epg.FSE(flip=[150 * deg, 120 * deg, 100 * deg, 90 * deg], esp=10 * ms)

    def cost(tissue: Tissue, seq: epg.FSE) -> Tensor:
        return (
            mrsim.crlb(epg.fse, "M0", "T2", sigma=0.01)(tissue, seq).T2 / tissue.T2**2
        )

    pairs = zip(tissues.T1, tissues.T2, strict=True)
    each = torch.stack([cost(Tissue(T1=a, T2=b), seq) for a, b in pairs])
    assert mrsim.average(cost)(tissues, seq) == pytest.approx(each.mean().item())
    shares = torch.tensor([1.0, 0.0, 3.0])
    weighted = mrsim.average(cost, weights=shares)(tissues, seq)
    assert weighted == pytest.approx(((each[0] + 3 * each[2]) / 4).item())
    assert mrsim.worst(cost)(tissues, seq) == pytest.approx(each.max().item())
    smooth = mrsim.worst(cost, power=8)(tissues, seq)
    assert smooth == pytest.approx((each**8).mean().item() ** (1 / 8))
    for objective in (
        mrsim.average(cost),
        mrsim.worst(cost),
        mrsim.worst(cost, power=8),
    ):
        slope = grad(lambda q, f=objective: f(tissues, q))(seq).flip
        wanted = difference(
            lambda x, f=objective: f(tissues, mrsim.replace(seq, flip=x)), seq.flip
        )
        agree(slope, wanted, 1e-7)


def test_criteria_over_tissues_are_means_and_norms() -> None:
    """Costs 1, 2 and 4 times a factor, with the derivatives that these have."""
    tissues = Tissue(T1=torch.ones(3), T2=torch.tensor([0.1, 0.2, 0.4]))

    def cost(tissue: Tissue, x: Tensor, unit: float) -> Tensor:
        return x * tissue.T2 / unit

    x, shares = torch.tensor(3.0), torch.tensor([1.0, 2.0, 0.0])
    costs = torch.tensor([3.0, 6.0, 12.0])
    wanted = {
        mrsim.average(cost): costs.mean(),
        mrsim.average(cost, weights=shares): torch.tensor(5.0),
        mrsim.worst(cost): costs.max(),
        mrsim.worst(cost, power=2): costs.square().mean().sqrt(),
        mrsim.worst(cost, power=5.0): (costs**5).mean() ** (1 / 5),
        mrsim.worst(cost, power=400.0): (costs / 12).pow(400).mean() ** (1 / 400) * 12,
    }
    for objective, value in wanted.items():
        slope, made = grad_and_value(objective, argnums=1)(tissues, x, 0.1)
        torch.testing.assert_close(made, value)
        torch.testing.assert_close(slope, value / 3)  # they are proportional to x
    small, slope = 1e-6 * costs, 1e-6 * x  # smaller than 1, all of them
    torch.testing.assert_close(
        mrsim.worst(cost, power=3.0)(tissues, slope, 0.1),
        small.pow(3).mean() ** (1 / 3),
    )
    one = mrsim.worst(cost, power=2)(mrsim.expand(Tissue(T1=1.0, T2=0.1), 1), x, 0.1)
    torch.testing.assert_close(one, torch.tensor(3.0))


@pytest.mark.parametrize("power", [None, 4.0])
def test_worst_of_an_unidentifiable_tissue_is_inf_with_a_finite_gradient(
    power: float | None,
) -> None:
    tissues = Tissue(
        T1=torch.ones(2), T2=torch.tensor([0.1, 0.1]), M0=torch.arange(2.0)
    )

    def cost(tissue: Tissue, x: Tensor) -> Tensor:
        bound = mrsim.crlb(spiral, "M0", "T2", sigma=0.01)
        return bound(mrsim.replace(tissue, df=torch.zeros(())), Samples(x=x)).T2

    objective = mrsim.worst(cost, power=power)
    assert objective(tissues, TIMES.x) == math.inf
    assert (grad(objective, argnums=1)(tissues, TIMES.x) == 0).all()
    assert grad(mrsim.average(cost), argnums=1)(tissues, TIMES.x).isfinite().all()


def test_smooth_worst_of_nothing_is_zero() -> None:
    tissues = Tissue(T1=torch.ones(2), T2=torch.tensor([0.1, 0.1]))
    objective = mrsim.worst(lambda tissue, x: x * tissue.T1, power=4.0)
    assert objective(tissues, torch.tensor(0.0)) == 0
    assert grad(objective, argnums=1)(tissues, torch.tensor(0.0)).isfinite()
