"""Protocols: the cost, the equivalence theorem, free supports, whole numbers."""

import itertools

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

import mrsim
from mrsim import design, ivim

LIVER = ivim.Biexp(f=[0.2305], Dp=[0.07002], D=[0.00109])
COST = ivim.relative_sd(LIVER, "f", "Dp", "D")
GRID = ivim.Acquisition(b=torch.linspace(0, 800, 41))
COARSE = ivim.Acquisition(b=torch.linspace(0, 800, 21))
FOUR = ivim.Acquisition(b=[0.0, 13.5, 83.8, 800.0])
EQUAL = torch.full((4,), 0.25)
# no four b values serve slow perfusion and fast perfusion alike
UNLIKE = ivim.Biexp(f=[0.3, 0.3], Dp=[0.15, 0.012], D=[0.003, 0.0005])


def excess(cost: ivim.protocol.Cost, found: ivim.Optimum, q: ivim.Acquisition) -> float:
    """Return by how much the largest sensitivity of a fine grid exceeds 1."""
    return float(ivim.sensitivity(cost, found.protocol, q).amax()) - 1


# --------------------------------------------------------------------------- cost


def test_cost_is_the_mean_sum_of_relative_errors() -> None:
    two = ivim.Biexp(f=[0.2305, 0.1], Dp=[0.07, 0.02], D=[1.1e-3, 1e-3])
    q, repeats = GRID, torch.arange(1.0, 42.0)
    made = ivim.relative_sd(two, "f", "D", nuisance=["S0", "Dp"], sigma=0.1)
    wanted = 0.0
    for k in range(2):
        one = ivim.Biexp(S0=1.0, f=two.f[k], Dp=two.Dp[k], D=two.D[k])
        bound = mrsim.crlb(ivim.signal, sigma=0.1, weights=repeats)(one, q)
        wanted += float(bound.f.sqrt() / one.f + bound.D.sqrt() / one.D) / 2
    assert float(made(q, repeats)) == pytest.approx(wanted, rel=1e-12)
    half = ivim.relative_sd(
        two, "f", "D", nuisance=["S0", "Dp"], sigma=0.1, unit=doubled(two)
    )
    assert float(half(q, repeats)) == pytest.approx(wanted / 2, rel=1e-12)


def doubled(x: ivim.Biexp) -> ivim.Biexp:
    return mrsim.replace(x, f=2 * x.f, Dp=2 * x.Dp, D=2 * x.D)


@settings(max_examples=10)
@given(st.lists(st.floats(0.01, 1), min_size=12, max_size=12), st.floats(0, 1))
def test_cost_is_convex_and_homogeneous(shares: list[float], part: float) -> None:
    q = ivim.Acquisition(b=[0.0, 10.0, 30.0, 90.0, 300.0, 800.0])
    for coils in (0, 1):
        cost = ivim.relative_sd(UNLIKE, "f", "Dp", "D", sigma=0.1, coils=coils)
        one, other = torch.tensor(shares[:6]), torch.tensor(shares[6:])
        between = cost(q, part * one + (1 - part) * other)
        line = part * cost(q, one) + (1 - part) * cost(q, other)
        assert float(between) <= float(line) * (1 + 1e-10)
        assert float(cost(q, 4 * one) * 2) == pytest.approx(float(cost(q, one)))


def test_sensitivity_is_the_gain_of_a_new_setting() -> None:
    protocol = ivim.Protocol(acquisition=FOUR, weights=EQUAL)
    made = ivim.sensitivity(COST, protocol, GRID)
    assert made.shape == (41,)
    more = ivim.Acquisition(b=torch.cat([FOUR.b, GRID.b[5:6]]))
    step = 1e-6
    ahead = COST(more, torch.cat([EQUAL, torch.tensor([step])]))
    slope = (ahead - COST(FOUR, EQUAL)) / step
    # by homogeneity the protocol's own slopes sum to -C/2
    assert float(made[5]) == pytest.approx(float(-2 * slope / ahead), rel=1e-4)
    own = ivim.sensitivity(COST, protocol, FOUR)
    assert float(own.mean()) == pytest.approx(1)


def test_tissues_need_an_axis_and_sense() -> None:
    with pytest.raises(ValueError, match=r"first axis.*mrsim.expand\(tissue, 1\)"):
        ivim.relative_sd(ivim.Biexp(f=0.1, Dp=0.05, D=1e-3), "f")
    with pytest.raises(ValueError, match="f must not be negative"):
        ivim.relative_sd(ivim.Biexp(f=[-0.1], Dp=[0.05], D=[1e-3]), "f")


# ---------------------------------------------------------------------- continuous


@pytest.mark.parametrize(("sigma", "coils"), [(0.1, 0), (0.2, 1), (0.1, 3)])
def test_optimum_meets_the_equivalence_theorem(sigma: float, coils: int) -> None:
    cost = ivim.relative_sd(LIVER, "f", "Dp", "D", sigma=sigma, coils=coils)
    found = ivim.optimise(cost, COARSE, "b")
    assert found.gap < 1e-4
    assert excess(cost, found, ivim.Acquisition(b=torch.linspace(0, 800, 401))) < 1e-3
    own = ivim.sensitivity(cost, found.protocol, found.protocol.acquisition)
    torch.testing.assert_close(own, torch.ones_like(own), rtol=0, atol=1e-3)
    assert float(found.protocol.weights.sum()) == pytest.approx(1)
    assert found.cost < float(cost(FOUR, EQUAL))


def test_more_settings_than_parameters_where_they_help() -> None:
    cost = ivim.relative_sd(UNLIKE, "f", "Dp", "D")
    found = ivim.optimise(cost, GRID, "b")
    assert len(found.protocol.weights) > 4
    fine = ivim.Acquisition(b=torch.linspace(0, 800, 801))
    assert excess(cost, found, fine) < 1e-3
    best = design.minimise(
        lambda p: cost(p.acquisition, p.weights / p.weights.sum()),
        ivim.Protocol(acquisition=FOUR, weights=EQUAL),
        "acquisition.b",
        "weights",
        bounds={"acquisition.b": (0, 800), "weights": (0, None)},
    )
    assert found.cost < best.value * (1 - 1e-3)


def test_simplified_model_keeps_to_its_bounds() -> None:
    tissue = ivim.Simplified(f=[0.2305], D=[0.00109])
    cost = ivim.relative_sd(tissue, "f", "D")
    b = torch.cat([torch.zeros(1), torch.linspace(200, 800, 21)])
    limits = {"b": (200.0 * (b > 0), 800.0 * (b > 0))}
    found = ivim.optimise(cost, ivim.Acquisition(b=b), "b", bounds=limits)
    assert found.protocol.acquisition.b.tolist() == pytest.approx([0, 200, 800])
    assert found.protocol.weights.tolist() == pytest.approx([0.182, 0.43, 0.388], 1e-2)


def test_flow_weighting_is_designed_with_b() -> None:
    tissue = ivim.Ballistic(f=[0.1, 0.2], v=[2.0, 1.5], D=[1e-3, 1.2e-3])
    cost = ivim.relative_sd(tissue, "f", "v", "D")
    b, c = torch.cartesian_prod(GRID.b[::4], GRID.b[::8] / 800).unbind(-1)
    # a gradient that gives b can give at most so much flow weighting
    most = design.at_most(
        lambda p: p.acquisition.c - (p.acquisition.b / 800 + 1e-6).sqrt(), 1e-3, "c"
    )
    kept = c <= (b / 800).sqrt() + 1e-9
    candidates = ivim.Acquisition(b=b[kept], c=c[kept])
    found = ivim.optimise(cost, candidates, "b", "c", constraints=[most])
    q = found.protocol.acquisition
    assert (q.c <= (q.b / 800).sqrt() + 2e-3).all()
    assert (q.c < 1e-6).any()
    assert (q.c > 0.4).any()
    assert excess(cost, found, candidates) < 1e-3
    on_grid = ivim.optimise(cost, candidates)
    assert found.cost < on_grid.cost
    assert excess(cost, on_grid, candidates) < 1e-3


def test_timings_are_designed_too() -> None:
    tissue = ivim.Intermediate(f=[0.15], v=[2.0], tau=[0.05], D=[1e-3])
    cost = ivim.relative_sd(tissue, "f", "v", "D", nuisance=["S0"])
    b, Delta = torch.cartesian_prod(GRID.b[::5], torch.tensor([0.02, 0.06])).unbind(-1)
    candidates = ivim.Acquisition(b=b, Delta=Delta, delta=0.01)
    found = ivim.optimise(cost, candidates, "b", "Delta", tolerance=1e-3)
    assert found.gap < 1e-3
    assert found.protocol.acquisition.delta.shape == ()
    fixed = ivim.Acquisition(b=GRID.b[::5], Delta=0.04, delta=0.01)
    assert found.cost < ivim.optimise(cost, fixed).cost


def test_echo_time_is_shared_and_bounded_by_the_largest_b() -> None:
    tissue = ivim.Biexp(f=[0.1], Dp=[0.03], D=[1e-3], T2b=[0.15], T2t=[0.05])
    cost = ivim.relative_sd(tissue, "f", "Dp", "D")

    def shortest(q: ivim.Acquisition) -> Tensor:
        return 0.02 + 0.04 * (q.b / 800 + 1e-9) ** (1 / 3)

    late = design.at_most(
        lambda p: shortest(p.acquisition) - p.acquisition.TE, 1e-9, "echo time"
    )
    candidates = ivim.Acquisition(b=GRID.b, TE=0.08)
    limits = {"TE": (0.02, 0.1)}
    found = ivim.optimise(
        cost, candidates, "b", "TE", bounds=limits, constraints=[late]
    )
    q = found.protocol.acquisition
    assert float(q.TE) == pytest.approx(float(shortest(q).amax()), rel=1e-3)
    assert found.cost < ivim.optimise(cost, candidates, "b").cost


def test_candidates_that_cannot_tell_are_refused() -> None:
    with pytest.raises(ValueError, match="all 2 candidates together is inf"):
        ivim.optimise(COST, ivim.Acquisition(b=[0.0, 500.0]), "b")
    with pytest.raises(ValueError, match="have no 'TE' to move"):
        ivim.optimise(COST, GRID, "TE")
    with pytest.raises(ValueError, match="share 'TE', so that its range is not"):
        ivim.optimise(COST, mrsim.replace(GRID, TE=torch.tensor(0.1)), "TE")
    with pytest.raises(ValueError, match=r"largest b is 0\.8"):
        ivim.optimise(COST, ivim.Acquisition(b=GRID.b / 1000), "b")


# ------------------------------------------------------------------- whole numbers


def test_allocation_is_the_best_of_all() -> None:
    b = torch.tensor([0.0, 10.0, 20.0, 60.0, 100.0, 300.0, 800.0])
    q = ivim.Acquisition(b=b)
    made = ivim.allocate(COST, q, 6)
    every = itertools.combinations_with_replacement(range(7), 6)
    counts = torch.stack([torch.bincount(torch.tensor(c), minlength=7) for c in every])
    costs = torch.func.vmap(COST, in_dims=(None, 0))(q, counts.to(b))
    best = float(costs.nan_to_num(torch.inf).amin())
    assert float(COST(made.acquisition, made.weights)) == pytest.approx(best, rel=1e-9)
    assert made.weights.sum() == 6
    assert (made.weights == made.weights.round()).all()


def test_allocation_can_start_anywhere() -> None:
    grid = ivim.Acquisition(b=torch.linspace(0, 800, 81))
    start = torch.zeros(81).index_fill(0, torch.tensor([0, 20, 40, 60, 80]), 0.2)
    made = ivim.allocate(COST, grid, 8, start=start)
    assert made.acquisition.b.tolist() == [0, 10, 80, 800]
    assert made.weights.tolist() == [2, 3, 2, 1]


def test_too_few_acquisitions_are_refused() -> None:
    with pytest.raises(ValueError, match="3 acquisitions cannot tell"):
        ivim.allocate(COST, GRID, 3)
