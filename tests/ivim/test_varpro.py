"""Variable projection: its algebra, its minimum, its bounds, bad voxels."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from ivim.fit_data import NAMES, B, Q, phantom
from torch import Tensor
from torch.func import vmap

import mrsim
from mrsim import ivim
from mrsim.ivim import _projection, small

SLOTS = {"S0": (0.9, 1.1), "f": (0.1, 0.35)}


def entries(matrix: Tensor) -> small.Matrix:
    return [list(row.unbind(-1)) for row in matrix.unbind(-2)]


def squares(y: Tensor, params: Any, q: ivim.Acquisition = Q) -> Tensor:
    model = vmap(ivim.signal, in_dims=(0, None))(params, q)
    return (model - y).square().sum(-1) / 2


# ---------------------------------------------------------------- the algebra


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_small_systems(size: int, generator: torch.Generator) -> None:
    x = torch.randn(20, 7, size, generator=generator)
    a, g = x.mT @ x, torch.randn(20, size, generator=generator)
    solved = torch.stack(small.solve(entries(a), list(g.unbind(-1))), -1)
    torch.testing.assert_close(a @ solved.unsqueeze(-1), g.unsqueeze(-1))
    inverse = small.inverse(entries(a))
    made = torch.stack([torch.stack(row, -1) for row in inverse], -2)
    torch.testing.assert_close(made @ a, torch.eye(size).expand(20, size, size))
    bound = small.covariance(entries(a))
    made = torch.stack([torch.stack(row, -1) for row in bound], -2)
    torch.testing.assert_close(made, vmap(mrsim.covariance)(a))


def test_covariance_of_what_is_not_told() -> None:
    a = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 3.0]])
    b = torch.ones(3, 3)
    made = small.covariance(entries(torch.stack([a, b])))
    both = torch.stack([torch.stack(row, -1) for row in made], -2)
    torch.testing.assert_close(both[0], mrsim.covariance(a))
    assert both[1].diagonal().isinf().all()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_nonnegative_amplitudes_are_optimal(
    size: int, generator: torch.Generator
) -> None:
    x = torch.rand(200, 6, size, generator=generator)
    y = torch.randn(200, 6, generator=generator)
    gram, h = x.mT @ x, (x.mT @ y.unsqueeze(-1)).squeeze(-1)
    found = small.nonnegative(entries(gram), list(h.unbind(-1)))
    a = torch.stack(found.values, -1)
    slope = (gram @ a.unsqueeze(-1)).squeeze(-1) - h
    assert (a >= 0).all()
    assert (slope >= -1e-10).all()
    assert (slope * a).abs().amax() < 1e-10


@given(
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
    st.floats(0.0, 0.9),
    st.floats(1.0, 2.0),
    st.integers(0, 1000),
)
def test_boxed_amplitudes_are_optimal(
    low: float, width: float, s0: float, s1: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    share = low, min(1.0, low + width)
    x = torch.rand(6, 2, generator=generator)
    y = 2 * torch.randn(6, generator=generator)
    gram, h = x.mT @ x, x.mT @ y
    a = torch.stack(small.boxed(entries(gram), list(h), (s0, s1), share).values)
    total = a.sum()
    assert s0 - 1e-12 <= total <= s1 + 1e-12
    assert share[0] * total - 1e-12 <= a[1] <= share[1] * total + 1e-12
    f = torch.linspace(*share, 101).unsqueeze(-1)
    s = torch.linspace(s0, s1, 101)
    grid = torch.stack([s * (1 - f), s * f], -1)

    def cost(v: Tensor) -> Tensor:
        return (v @ gram * v).sum(-1) / 2 - v @ h

    assert cost(a) <= cost(grid).amin() + 1e-12


# ---------------------------------------------------------------- the minimum


def test_noise_free_voxels_are_recovered(generator: torch.Generator) -> None:
    y, truth = phantom(200, 0.0, generator)
    found = ivim.varpro(y, Q, starts=2, iterations=30)
    for name in NAMES:
        made, wanted = getattr(found.params, name), getattr(truth, name)
        torch.testing.assert_close(made, wanted, rtol=1e-6, atol=0.0)
    assert found.converged.all()
    assert found.cost.amax() < 1e-20


def test_the_slope_vanishes_within_the_bounds(generator: torch.Generator) -> None:
    y, _ = phantom(300, 0.02, generator)
    found = ivim.varpro(y, Q, bounds=SLOTS, starts=2, iterations=40)

    def cost(x: Tensor, y: Tensor) -> Tensor:
        p = ivim.Biexp(**dict(zip(NAMES, x, strict=True)))
        return (ivim.signal(p, Q) - y).square().sum() / 2

    x = torch.stack([getattr(found.params, n) for n in NAMES], -1)
    slope = vmap(torch.func.grad(cost))(x, y)
    box = ivim.limits(SLOTS)
    low, high = (torch.tensor([box[n][k] for n in NAMES]) for k in (0, 1))
    below, above = x <= low * (1 + 1e-12), x >= high * (1 - 1e-12)
    free = ~(below | above)
    size = torch.tensor([1.0, 1.0, 0.05, 1e-3])
    assert (x >= low * (1 - 1e-12)).all()
    assert (x <= high * (1 + 1e-12)).all()
    assert found.converged.double().mean() > 0.9
    done = found.converged.unsqueeze(-1)
    assert (slope * size)[free & done].abs().amax() < 1e-7
    assert (slope * size)[below & done].amin() > -1e-7
    assert (slope * size)[above & done].amax() < 1e-7
    assert (below | above).any(0)[:3].all()
    torch.testing.assert_close(found.cost, squares(y, found.params))


def test_labels_keep_their_order_where_bounds_overlap(
    generator: torch.Generator,
) -> None:
    y, _ = phantom(200, 0.05, generator)
    wide = {"D": (0.0, 0.1), "Dp": (0.0, 0.2)}
    found = ivim.varpro(y, Q, bounds=wide, starts=3, iterations=30)
    assert (found.params.D <= found.params.Dp).all()
    narrow = ivim.varpro(y, Q, starts=3, iterations=30)
    assert (found.cost <= narrow.cost * (1 + 1e-6)).double().mean() > 0.98


def test_covariance_is_the_bound(generator: torch.Generator) -> None:
    y, _ = phantom(50, 0.01, generator)
    found = ivim.varpro(y, Q, sigma=0.01, starts=2, iterations=30)
    bound = ivim.fisher(*NAMES, sigma=0.01)
    p = found.params
    wanted = vmap(lambda p: mrsim.covariance(bound(p, Q)))(p)
    torch.testing.assert_close(found.covariance, wanted, rtol=1e-6, atol=0.0)
    free = ivim.varpro(y, Q, starts=2, iterations=30)
    share = (2 * free.cost / (len(B) - 4) / 1e-4)[:, None, None]
    torch.testing.assert_close(free.covariance, found.covariance * share)


def test_no_covariance_without_freedom() -> None:
    q = ivim.Acquisition(b=[0.0, 30.0, 200.0, 800.0])
    y = ivim.signal(ivim.Biexp(S0=1.0, f=0.2, Dp=0.04, D=0.001), q)
    bare, told = ivim.varpro(y, q), ivim.varpro(y, q, sigma=0.01)
    assert bare.covariance.diagonal().isinf().all()
    assert not bare.converged
    assert told.covariance.isfinite().all()


def test_estimates_scatter_as_the_covariance_says(generator: torch.Generator) -> None:
    truth = ivim.Biexp(S0=1.0, f=0.25, Dp=0.04, D=0.0012)
    clean, sigma = ivim.signal(truth, Q), 0.003
    y = clean + sigma * torch.randn(4000, len(B), generator=generator)
    found = ivim.varpro(y, Q, sigma=sigma, starts=2, iterations=20)
    spread = torch.stack([getattr(found.params, n).var() for n in NAMES])
    told = found.covariance.diagonal(dim1=-2, dim2=-1).median(0).values
    assert ((spread / told - 1).abs() < 0.12).all()


def test_scale_of_the_signal_changes_nothing(generator: torch.Generator) -> None:
    y, _ = phantom(100, 0.02, generator)
    one, many = ivim.varpro(y, Q), ivim.varpro(1500 * y, Q)
    torch.testing.assert_close(many.params.S0, 1500 * one.params.S0)
    torch.testing.assert_close(many.params.Dp, one.params.Dp)


# ------------------------------------------------------------------- batches


def test_one_voxel_chunks_images_and_vmap_agree(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    y, _ = phantom(12, 0.02, generator)
    whole = ivim.varpro(y, Q).params.Dp
    torch.testing.assert_close(ivim.varpro(y[5], Q).params.Dp, whole[5])
    image = ivim.varpro(y.reshape(2, 3, 2, -1), Q)
    torch.testing.assert_close(image.params.Dp.flatten(), whole)
    assert image.covariance.shape == (2, 3, 2, 4, 4)
    torch.testing.assert_close(vmap(lambda v: ivim.varpro(v, Q).params.Dp)(y), whole)
    b = torch.tensor(B) * torch.linspace(1.0, 1.1, 12).unsqueeze(-1)
    each = vmap(lambda v, b: ivim.varpro(v, ivim.Acquisition(b=b)).params.Dp)(y, b)
    last = ivim.varpro(y[11], ivim.Acquisition(b=b[11])).params.Dp
    torch.testing.assert_close(each[11], last)
    monkeypatch.setattr("mrsim.ivim._varpro.CHUNK", 5)
    torch.testing.assert_close(ivim.varpro(y, Q, progress=True).params.Dp, whole)


def test_bad_voxels_change_no_other(generator: torch.Generator) -> None:
    y, _ = phantom(6, 0.02, generator)
    good = ivim.varpro(y, Q)
    y[1, 3], y[2], y[3, 4], y[4] = math.nan, 0.0, math.inf, -1.0
    found = ivim.varpro(y, Q)
    for k in (0, 5):
        torch.testing.assert_close(found.params.Dp[k], good.params.Dp[k])
        torch.testing.assert_close(found.covariance[k], good.covariance[k])
    for k in (1, 2, 3, 4):
        assert found.params.f[k].isnan()
        assert found.covariance[k].isnan().all()
        assert not found.converged[k]
        assert not found.at_bound[k].any()


def test_negative_signals_are_fitted(generator: torch.Generator) -> None:
    y, _ = phantom(400, 0.15, generator)
    assert (y <= 0).any()
    found = ivim.varpro(y, Q, starts=2)
    assert all(getattr(found.params, n).isfinite().all() for n in NAMES)


def test_compiled_steps_agree(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # whole graphs, without the 30 s of inductor and its C++ compiler
    whole = partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", whole)
    y, _ = phantom(300, 0.02, generator)
    plain = ivim.varpro(y.float(), mrsim.to(Q, torch.float32))
    fast = ivim.varpro(y.float(), mrsim.to(Q, torch.float32), compiled=True)
    excess = fast.cost / plain.cost - 1
    assert excess.abs().quantile(0.98) < 1e-3
    _projection.optimised.cache_clear()


# -------------------------------------------------------------- other models


def test_simplified_model() -> None:
    q = ivim.Acquisition(b=[0.0, 0.0, 200.0, 400.0, 600.0, 800.0])
    truth = ivim.Simplified(
        S0=torch.tensor([1.0, 2.0]),
        f=torch.tensor([0.1, 0.3]),
        D=torch.tensor([1e-3, 2e-3]),
    )
    y = vmap(ivim.signal, in_dims=(0, None))(truth, q)
    found = ivim.varpro(y, q, ivim.Simplified, iterations=20, sigma=0.01)
    for name in ("S0", "f", "D"):
        made, wanted = getattr(found.params, name), getattr(truth, name)
        torch.testing.assert_close(made, wanted, rtol=1e-7, atol=0.0)
    bound = ivim.fisher("S0", "f", "D", sigma=0.01)
    wanted = vmap(lambda p: mrsim.covariance(bound(p, q)))(truth)
    torch.testing.assert_close(found.covariance, wanted, rtol=1e-5, atol=1e-15)
    assert found.converged.all()


def test_three_compartments(generator: torch.Generator) -> None:
    q = ivim.Acquisition(b=[*B, 1.0, 2.0, 3.0, 15.0, 30.0, 60.0, 110.0, 220.0])
    u = torch.rand(6, 20, generator=generator)
    truth = ivim.Triexp(
        S0=1 + u[0],
        f1=0.1 + 0.2 * u[1],
        f2=0.1 + 0.1 * u[2],
        D1=0.01 + 0.02 * u[3],
        D2=0.1 + 0.4 * u[4],
        D0=1e-3 + 1e-3 * u[5],
    )
    y = vmap(ivim.signal, in_dims=(0, None))(truth, q)
    found = ivim.varpro(y, q, ivim.Triexp, starts=2, iterations=60, sigma=1e-3)
    for name in ("S0", "f1", "f2", "D1", "D2", "D0"):
        made, wanted = getattr(found.params, name), getattr(truth, name)
        torch.testing.assert_close(made, wanted, rtol=1e-4, atol=0.0)
    bound = ivim.fisher("S0", "f1", "f2", "D1", "D2", "D0", sigma=1e-3)
    wanted = vmap(lambda p: mrsim.covariance(bound(p, q)))(found.params)
    torch.testing.assert_close(found.covariance, wanted, rtol=1e-4, atol=0.0)


# ----------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": ivim.Ballistic}, "use ivim.least_squares"),
        ({"bounds": {"Dp": (0.1, 0.01)}}, "lower ≤ upper"),
        ({"bounds": {"Dstar": (0.0, 1.0)}}, "must be a field of Biexp"),
        ({"bounds": {"D": (0.0, 0.3)}}, "must ascend"),
        ({"bounds": {"K": (0.0, 1.0)}}, "cannot bound or fit K"),
        ({"q": ivim.Acquisition(b=[0.001 * b for b in B])}, "ms/µm²"),
        ({"q": ivim.Acquisition(b=[1e6 * b for b in B])}, "s/m²"),
        ({"q": ivim.Acquisition(b=[b + 20 for b in B])}, "smallest b"),
        ({"q": ivim.Acquisition(b=B[:-1])}, "last axis"),
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"starts": 0}, "starts must be positive"),
    ],
)
def test_bad_input_is_explained(change: dict[str, Any], message: str) -> None:
    given = {"q": Q, "model": ivim.Biexp} | change
    q, model = given.pop("q"), given.pop("model")
    with pytest.raises(ValueError, match=message):
        ivim.varpro(torch.ones(3, len(B)), q, model, **given)


def test_precision_must_agree() -> None:
    with pytest.raises(TypeError, match="bring all records"):
        ivim.varpro(torch.ones(3, len(B), dtype=torch.float32), Q)
