"""Least squares of every model, and bad input of all fits."""

import math
from typing import Any

import pytest
import torch
from ivim.fit_data import NAMES, PRIOR, B, Q, column, magnitude, phantom
from torch.func import vmap

import mrsim
from mrsim import ivim
from mrsim.ivim import ordered
from mrsim.tree import tree_leaves

FLOW = ivim.Acquisition(
    b=[0.0, 10.0, 40.0, 100.0, 200.0, 400.0, 800.0] * 2,
    c=[0.0, 0.3, 0.6, 1.0, 1.4, 2.0, 2.8] + [0.0] * 7,
    delta=0.01,
    Delta=0.03,
    T=0.09,
    k=[1.0] * 7 + [-1.0] * 7,
)


TIMED = ivim.Acquisition(b=B * 2, TE=[0.05] * 10 + [0.1] * 10)


MODELS = {
    "biexp": (ivim.Biexp, Q, {"f": column(0.1, 0.3), "Dp": column(0.02, 0.07)}),
    "kurtosis": (
        ivim.Biexp,
        Q,
        {"f": column(0.1, 0.3), "Dp": column(0.05, 0.07), "K": column(0.5, 1.0)},
    ),
    "diffusive": (
        ivim.Diffusive,
        Q,
        {"f": column(0.1, 0.3), "Dstar": column(0.02, 0.07)},
    ),
    "ballistic": (ivim.Ballistic, FLOW, {"f": column(0.1, 0.3), "v": column(2.0, 4.0)}),
    "intermediate": (
        ivim.Intermediate,
        FLOW,
        {"f": column(0.2, 0.3), "v": column(2.0, 4.0), "tau": column(0.1, 0.05)},
    ),
    "simplified": (ivim.Simplified, Q, {"f": column(0.1, 0.3)}),
}


# ------------------------------------------------------------- least squares


@pytest.mark.parametrize("case", MODELS)
def test_noise_free_voxels_of_any_model_are_recovered(case: str) -> None:
    model, q, values = MODELS[case]
    truth = model(S0=column(1.0, 900.0), D=column(1e-3, 1.6e-3), **values)
    y = vmap(ivim.signal, in_dims=(0, None))(truth, q)
    box = {"K": (0.0, 2.0)} if "K" in values else {}
    found = ivim.least_squares(
        y, q, model, bounds=box, starts=3, tolerance=1e-8, iterations=300
    )
    for name in ("S0", "D", *values):
        made, wanted = getattr(found.params, name), getattr(truth, name)
        torch.testing.assert_close(made, wanted, rtol=1e-4, atol=0.0)


def test_tensors_are_recovered(generator: torch.Generator) -> None:
    g = torch.randn(24, 3, generator=generator)
    g = torch.cat([torch.zeros(1, 3), g / g.norm(dim=-1, keepdim=True)])
    b = torch.cat([torch.zeros(1), torch.tensor([20.0, 60.0, 300.0, 800.0]).repeat(6)])
    q = ivim.Acquisition(b=b, bvec=g)
    D = torch.tensor([1.5, 0.9, 0.6, 0.2, -0.1, 0.15]) * 1e-3
    truth = ivim.DTI(
        S0=column(1.0, 300.0),
        f=column(0.1, 0.25),
        Dp=column(0.03, 0.05),
        D=torch.stack([D, D.roll(1)]),
    )
    y = vmap(ivim.signal, in_dims=(0, None))(truth, q)
    found = ivim.least_squares(y.reshape(1, 2, -1), q, ivim.DTI, tolerance=1e-8)
    assert found.covariance.shape == (1, 2, 9, 9)
    for name in ("S0", "f", "Dp", "D"):
        made, wanted = getattr(found.params, name)[0], getattr(truth, name)
        torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-9)


def test_it_agrees_with_variable_projection(generator: torch.Generator) -> None:
    y, _ = phantom(300, 0.02, generator)
    box = {"S0": (0.9, 1.1), "f": (0.1, 0.3)}
    one = ivim.least_squares(y, Q, bounds=box, starts=3, tolerance=1e-6, sigma=0.02)
    two = ivim.varpro(y, Q, bounds=box, starts=3, iterations=40, sigma=0.02)
    same = (one.cost / two.cost - 1).abs() < 1e-8
    assert same.double().mean() > 0.97
    both = same & one.converged & two.converged & ~(one.at_bound | two.at_bound).any(-1)
    assert both.any()
    for name in NAMES:
        pair = (getattr(x.params, name)[both] for x in (one, two))
        torch.testing.assert_close(*pair, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(
        one.covariance[both], two.covariance[both], rtol=0.01, atol=1e-9
    )
    for name, (low, high) in ivim.limits(box).items():
        x = getattr(one.params, name)
        assert ((x >= low) & (x <= high)).all()


def test_several_starts_are_no_worse(generator: torch.Generator) -> None:
    y, _ = phantom(400, 0.05, generator)
    one, many = (ivim.least_squares(y, Q, starts=n, tolerance=1e-4) for n in (1, 3))
    assert (many.cost <= one.cost * (1 + 1e-5)).all()
    assert (many.cost < one.cost * 0.999).any()


def test_known_fields_are_numbers_or_maps(generator: torch.Generator) -> None:
    T2b = 0.15 + 0.1 * torch.rand(2, 3, generator=generator)
    truth = ivim.Biexp(
        S0=torch.ones(6),
        f=torch.full((6,), 0.2),
        Dp=torch.full((6,), 0.03),
        D=torch.full((6,), 0.001),
        T2b=T2b.flatten(),
        T2t=torch.full((6,), 0.06),
    )
    y = vmap(ivim.signal, in_dims=(0, None))(truth, TIMED).reshape(2, 3, -1)
    fixed = {"T2b": T2b, "T2t": 0.06}
    found = ivim.least_squares(y, TIMED, fixed=fixed, tolerance=1e-8)
    torch.testing.assert_close(found.params.f, torch.full((2, 3), 0.2))
    torch.testing.assert_close(found.params.T2b, T2b)
    assert found.covariance.shape == (2, 3, 4, 4)
    fewer = ivim.least_squares(y, TIMED, fixed={**fixed, "S0": 1.0}, tolerance=1e-8)
    assert fewer.covariance.shape == (2, 3, 3, 3)
    torch.testing.assert_close(fewer.params.Dp, torch.full((2, 3), 0.03))


@pytest.mark.parametrize("method", [ivim.least_squares, ivim.maximum_likelihood])
def test_labels_keep_their_order_where_bounds_overlap(
    method: Any, generator: torch.Generator
) -> None:
    y, _ = magnitude(100, 0.05, generator)
    wide = {"D": (0.0, 0.1), "Dp": (0.0, 0.2)}
    found = method(y, Q, bounds=wide, starts=3, sigma=0.05)
    p = found.params
    assert (p.D <= p.Dp).all()
    assert ((p.Dp <= 0.2) & (p.D >= 0.0)).all()
    coils = 1 if method is ivim.maximum_likelihood else 0
    bound = ivim.fisher(*NAMES, sigma=0.05, coils=coils)
    wanted = vmap(lambda p: mrsim.covariance(bound(p, Q)))(p)
    torch.testing.assert_close(found.covariance, wanted)


def test_one_start_is_good_where_bounds_overlap(generator: torch.Generator) -> None:
    y, _ = phantom(300, 0.03, generator)
    wide = {"D": (0.0, 0.1), "Dp": (0.0, 0.2)}
    best = ivim.varpro(y, Q, bounds=wide, starts=4, iterations=40)
    found = ivim.least_squares(y, Q, bounds=wide)
    assert (found.cost <= best.cost * 1.001).double().mean() > 0.93


def test_order_is_a_change_of_coordinates(generator: torch.Generator) -> None:
    box = ivim.limits({"D": (0.0, 0.1), "Dp": (0.01, 0.2)})
    names = ordered.chain(box)
    assert names == ("D", "Dp")
    assert ordered.chain(ivim.limits()) == ()
    u = torch.rand(2, 50, generator=generator)
    D = 0.1 * u[0]
    low = D.clamp_min(0.01)
    p = ivim.Biexp(f=D, D=D, Dp=low + u[1] * (0.2 - low))
    t = ordered.to_inner(p, box, names)
    torch.testing.assert_close(t.Dp, u[1])
    torch.testing.assert_close(ordered.to_outer(t, box, names).Dp, p.Dp)


def test_chunks_and_images_agree(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    y, _ = phantom(12, 0.02, generator)
    maps = {"fixed": {"S0": torch.linspace(0.9, 1.1, 12)}}
    whole = ivim.least_squares(y, Q, **maps).params.f
    monkeypatch.setattr("mrsim.ivim._least_squares.CHUNK", 5)
    again = ivim.least_squares(y, Q, progress=True, **maps).params.f
    torch.testing.assert_close(again, whole)
    one = ivim.least_squares(y[7], Q, fixed={"S0": maps["fixed"]["S0"][7]})
    torch.testing.assert_close(one.params.f, whole[7])


METHODS = {
    "least_squares": ivim.least_squares,
    "likelihood": lambda y, q: ivim.maximum_likelihood(y, q, sigma=0.02),
    "mode": lambda y, q: ivim.posterior_mode(y, q, sigma=0.02, prior=PRIOR),
}


@pytest.mark.parametrize("name", METHODS)
def test_bad_voxels_change_no_other(name: str, generator: torch.Generator) -> None:
    y, _ = phantom(5, 0.02, generator)
    good = METHODS[name](y, Q)
    y[1, 3], y[2], y[3, 4] = math.nan, 0.0, math.inf
    found = METHODS[name](y, Q)
    for k in (0, 4):
        torch.testing.assert_close(found.params.Dp[k], good.params.Dp[k])
        torch.testing.assert_close(found.covariance[k], good.covariance[k])
    for k in (1, 3):
        assert found.params.f[k].isnan()
        assert not found.converged[k]


@pytest.mark.parametrize(
    "method",
    [
        ivim.varpro,
        ivim.segmented,
        ivim.least_squares,
        ivim.maximum_likelihood,
        ivim.posterior_mode,
    ],
)
def test_single_precision_stays(method: Any, generator: torch.Generator) -> None:
    y, _ = magnitude(40, 0.01, generator)
    wide = {} if method is ivim.segmented else {"D": (0.0, 0.01), "Dp": (0.0, 0.2)}
    found, wanted = (
        method(mrsim.to(y, t), mrsim.to(Q, t), bounds=wide, sigma=0.01)
        for t in (torch.float32, torch.float64)
    )
    assert all(
        x.dtype == torch.float32 for x in tree_leaves(found) if x.is_floating_point()
    )
    for name in NAMES:
        made, truth = (getattr(x.params, name) for x in (found, wanted))
        off = (made.double() / truth - 1).abs()
        assert off.quantile(0.9) < 0.02


# ---------------------------------------------------------------- bad input


ALL = [
    ivim.varpro,
    ivim.segmented,
    ivim.least_squares,
    ivim.maximum_likelihood,
    ivim.posterior_mode,
    ivim.noise_level,
    ivim.learn_prior,
]


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize(
    ("b", "shape", "message"),
    [
        ([x / 1000 for x in B], (3, 10), "ms/µm²"),
        ([x * 1e6 for x in B], (3, 10), "s/m²"),
        ([x + 20 for x in B], (3, 10), "smallest b is 20"),
        ([-x for x in B], (3, 10), "must not be negative"),
        ([B, B, B], (3, 10), "b must have shape"),
        (B, (10, 3), r"last axis .* data.movedim"),
        (B, (0, 10), "no voxel"),
    ],
)
def test_bad_data_are_explained(
    method: Any, b: Any, shape: tuple[int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        method(torch.ones(shape), ivim.Acquisition(b=b))


@pytest.mark.parametrize("method", ALL)
def test_data_must_be_real_and_of_the_precision_of_b(method: Any) -> None:
    with pytest.raises(TypeError, match="bring all records"):
        method(torch.ones(3, len(B), dtype=torch.float32), Q)
    with pytest.raises(TypeError, match="floating-point"):
        method(torch.ones(3, len(B), dtype=torch.int64), Q)


@pytest.mark.parametrize(
    "method", [ivim.noise_level, ivim.learn_prior, ivim.posterior_mode]
)
def test_nothing_to_learn_from_is_explained(method: Any) -> None:
    with pytest.raises(ValueError, match="none of the 3 voxels"):
        method(torch.zeros(3, len(B)), Q)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bounds": {"Dp": (0.1, 0.01)}}, "lower ≤ upper"),
        ({"bounds": {"v": (0.0, 1.0)}}, "must be a field of Biexp"),
        ({"fixed": {"f": 0.1}, "bounds": {"f": (0.0, 1.0)}}, "bounded or fixed"),
        ({"fixed": {"f": torch.ones(5)}}, "a map of shape"),
        ({"bounds": {"D": (0.0, 0.3)}}, "must ascend"),
        ({"starts": 0}, "starts must be positive"),
        ({"sigma": -1.0}, "sigma must be positive"),
    ],
)
def test_bad_input_is_explained(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ivim.least_squares(torch.ones(3, len(B)), Q, **change)


def test_sigma_needs_more_samples_than_unknowns() -> None:
    few = ivim.Acquisition(b=[0.0, 50.0, 200.0, 800.0])
    with pytest.raises(ValueError, match="give sigma"):
        ivim.posterior_mode(torch.ones(3, 4), few)
    with pytest.raises(ValueError, match="give sigma"):
        ivim.maximum_likelihood(torch.ones(3, 4), few)


def test_osipi_names() -> None:
    p = ivim.Diffusive(S0=1.0, f=0.1, Dstar=0.02, D=0.001)
    maps = ivim.osipi(p)
    assert set(maps) == {"S0", "f", "Dp", "D"}
    torch.testing.assert_close(maps["Dp"], torch.tensor(0.02175))
