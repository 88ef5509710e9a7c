"""Design: constraints, solvers, minima from one start."""

import math

import pytest
import torch
from design_models import GOAL, TISSUE, Plan, banana, bowl, train, variance
from hypothesis import given, strategies as st
from torch import Tensor

import mrsim
from mrsim import design, epg, tree
from mrsim.design.problem import feasible, pose
from mrsim.units import deg, ms

# Constraints


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=9), st.floats(0.1, 3))
def test_constraints_tell_what_they_say(values: list[float], limit: float) -> None:
    plan = Plan(a=values)
    a = plan.a
    power = design.rms("a", limit).excess(plan)
    assert (power > 0) == (a.square().mean().sqrt() > limit)
    assert (design.total("a", limit).excess(plan) > 0) == (a.sum() > limit)
    steep = design.slew("a", limit).excess(plan)
    assert bool((steep > 0).any()) == bool((a.diff().abs() > limit).any())
    assert len(steep) == 2 * (len(a) - 1)
    peak = design.at_most(lambda q: q.a, -limit).excess(plan)
    assert torch.equal(peak > 0, a > -limit)


def test_constraint_names_may_be_dotted() -> None:
    @mrsim.record
    class Outer:
        inner: Plan

    nested = Outer(inner=Plan(a=[3.0, 4.0]))
    assert design.rms("inner.a", 5.0).excess(nested) == pytest.approx(-0.5)


# One start


@pytest.mark.parametrize("method", ["SLSQP", "trust-constr", "Adam", "LBFGS"])
def test_every_method_finds_a_plain_minimum(method: str) -> None:
    found = design.minimise(
        bowl, Plan(a=[0.0, 0.0, 0.0], b=300.0), "a", "b", method=method, iterations=500
    )
    assert found.success
    torch.testing.assert_close(found.record.a, GOAL, rtol=1e-3, atol=0)
    assert found.record.b.item() == pytest.approx(1000, rel=1e-2)
    assert found.value == pytest.approx(1, abs=1e-4)
    assert found.start_value == pytest.approx(float(bowl(Plan(a=[0.0] * 3, b=300.0))))
    assert found.value == float(bowl(found.record))


@pytest.mark.parametrize("method", ["SLSQP", "LBFGS", "trust-constr"])
def test_curved_valley_is_followed(method: str) -> None:
    found = design.minimise(
        banana, Plan(a=[-1.2, 1.0, -0.5, 0.8]), "a", method=method, iterations=1000
    )
    torch.testing.assert_close(found.record.a, torch.ones(4), rtol=1e-3, atol=0)


@pytest.mark.parametrize("method", ["SLSQP", "trust-constr", "Adam"])
def test_bounds_hold_exactly(method: str) -> None:
    bounds = {"a": (torch.tensor([1.5, 0.1, 0.1]), 2.5), "b": (None, 100 / 3)}
    start = Plan(a=[2.0, 2.0, 2.0], b=10.0)
    found = design.minimise(
        bowl, start, "a", "b", bounds=bounds, method=method, iterations=500
    )
    a, b = found.record.a, found.record.b
    assert found.success
    assert 1.5 <= a[0] < 1.5 + 1e-3
    assert a[1].item() == pytest.approx(2, abs=1e-3)
    assert 2.5 - 1e-3 < a[2] <= 2.5
    assert 100 / 3 - 0.1 < b <= 100 / 3


@pytest.mark.parametrize("method", ["SLSQP", "trust-constr", "Adam", "LBFGS"])
@pytest.mark.parametrize(
    ("limit", "answer"),
    [
        (design.rms("a", 1.0), GOAL / GOAL.square().mean().sqrt()),
        (design.total("a", 3.0), GOAL - 1),
        (design.slew("a", 0.5), torch.tensor([1.5, 2.0, 2.5])),
        (design.at_most(lambda q: q.a, 1.0), torch.ones(3)),
    ],
    ids=["rms", "total", "slew", "at_most"],
)
def test_constraints_hold_at_the_minimum(
    method: str, limit: design.Constraint, answer: Tensor
) -> None:
    found = design.minimise(
        bowl,
        Plan(a=[0.1, 0.1, 0.1]),
        "a",
        constraints=(limit,),
        method=method,
        iterations=1000,
    )
    assert found.success
    assert found.violation <= 1e-6
    assert float(limit.excess(found.record).max()) <= 1e-6
    tolerance = 1e-2 if method == "Adam" else 2e-3
    torch.testing.assert_close(found.record.a, answer, rtol=tolerance, atol=tolerance)


def test_infeasible_start_becomes_feasible() -> None:
    limit = design.rms("a", 1.0)
    found = design.minimise(bowl, Plan(a=[9.0, 9.0, 9.0]), "a", constraints=(limit,))
    assert found.violation <= 1e-6
    torch.testing.assert_close(
        found.record.a, GOAL / GOAL.square().mean().sqrt(), rtol=1e-4, atol=0
    )


def test_impossible_constraints_are_no_success() -> None:
    limits = (design.total("a", -1.0),)
    found = design.minimise(
        bowl, Plan(a=[1.0, 1.0, 1.0]), "a", bounds={"a": (0, 5)}, constraints=limits
    )
    assert not found.success
    assert found.violation > 1e-6


@given(st.integers(0, 1000))
def test_feasible_removes_what_a_solver_leaves(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    limits = (design.rms("a", 1.0), design.slew("a", 0.3), design.total("a", 4.0))
    a = 0.5 + 0.3 * (torch.arange(8.0) % 2)
    noise = 0.01 * torch.randn(8, generator=generator)
    plan = Plan(a=a * 4 / a.sum() + noise)
    problem = pose(bowl, plan, ("a",), {"a": (0.1, 2.5)}, limits)
    made = problem.build(feasible(problem, problem.flatten(plan)), plan)
    assert ((made.a >= 0.1) & (made.a <= 2.5)).all()
    assert all(float(c.excess(made).max()) <= 1e-6 for c in limits)
    assert (made.a - plan.a).abs().max() < 0.1


def test_only_the_named_fields_change() -> None:
    start = Plan(a=[0.0, 0.0, 0.0], c=7.0)
    found = design.minimise(bowl, start, "a")
    assert found.record.b is None
    assert found.record.c is start.c
    both = design.minimise(bowl, start, "a", "b", iterations=500)
    assert both.record.b.item() == pytest.approx(1000, rel=1e-2)
    every = design.minimise(bowl, Plan(a=[0.0, 0.0, 0.0]))
    torch.testing.assert_close(every.record.a, GOAL, rtol=1e-4, atol=0)


def test_float32_records_stay_float32() -> None:
    start = mrsim.to(Plan(a=[0.0, 0.0, 0.0]), dtype=torch.float32)

    def cost(plan: Plan) -> Tensor:
        return 1 + (plan.a - GOAL.float()).square().sum()

    top = 8 / 3
    found = design.minimise(cost, start, "a", bounds={"a": (0.0, top)})
    assert found.record.a.dtype == torch.float32
    assert (found.record.a <= torch.tensor(top, dtype=torch.float32)).all()
    torch.testing.assert_close(
        found.record.a, torch.tensor([1.0, 2.0, top]).float(), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_units_of_objective_and_fields_do_not_matter(unit: float) -> None:
    def cost(plan: Plan) -> Tensor:
        return unit * bowl(tree.replace(plan, a=plan.a / unit))

    found = design.minimise(cost, Plan(a=[0.5 * unit] * 3), "a")
    torch.testing.assert_close(found.record.a / unit, GOAL, rtol=1e-4, atol=0)


def test_objective_that_falls_by_orders_is_still_minimised() -> None:
    def cost(plan: Plan) -> Tensor:
        return (1e3 * (bowl(plan) - 1 + 1e-9)).square()

    found = design.minimise(cost, Plan(a=[90.0, -40.0, 60.0]), "a")
    torch.testing.assert_close(found.record.a, GOAL, rtol=1e-2, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("method", ["SLSQP", "trust-constr", "Adam", "LBFGS"])
def test_holes_in_the_objective_are_survived(bad: float, method: str) -> None:
    def cost(plan: Plan) -> Tensor:
        hole = (plan.a > 3.05).any() | (plan.a < -1).any()
        return torch.where(hole, bad, 1.0) * bowl(plan)

    found = design.minimise(
        cost, Plan(a=[0.0, 0.0, 0.0]), "a", method=method, iterations=500
    )
    assert math.isfinite(found.value)
    torch.testing.assert_close(found.record.a, GOAL, rtol=0.05, atol=0)


def test_singular_start_is_refused() -> None:
    def cost(seq: epg.FSE) -> Tensor:
        return mrsim.crlb(epg.fse, "M0", "T2", "B1", sigma=1.0)(TISSUE, seq).B1

    with pytest.raises(ValueError, match=r"objective is inf at the start.*singular"):
        design.minimise(cost, train(flip=[180 * deg] * 8), "flip")
    with pytest.raises(ValueError, match="1 of 3 entries of its gradient are not"):
        design.minimise(lambda q: q.a.sqrt().sum(), Plan(a=[0.0, 1.0, 2.0]), "a")


def test_history_tells_the_course() -> None:
    limit = design.rms("a", 1.0)
    found = design.minimise(bowl, Plan(a=[0.1, 0.1, 0.1]), "a", constraints=(limit,))
    value, gradient, violation = found.history
    assert len(value) == len(gradient) == len(violation) > 2
    assert value[0] > value[-1]
    assert value[-1] == pytest.approx(found.value, rel=1e-6)
    assert violation[-1] <= 1e-6
    assert found.evaluations >= len(value)
    free = design.minimise(bowl, Plan(a=[0.1, 0.1, 0.1]), "a")
    assert free.history.gradient[-1] < 1e-4 * free.history.gradient[0]


def test_fse_train_improves_and_keeps_its_power() -> None:
    found = design.minimise(
        variance,
        train(),
        "flip",
        bounds={"flip": (10 * deg, 180 * deg)},
        constraints=(design.rms("flip", 60 * deg),),
    )
    flip = found.record.flip
    assert found.success
    assert found.value < 0.7 * found.start_value
    assert float(variance(found.record)) == pytest.approx(found.value)
    assert ((flip >= 10 * deg) & (flip <= 180 * deg)).all()
    assert flip.square().mean().sqrt() <= 60 * deg * (1 + 1e-6)


def test_timing_and_flips_are_designed_together_under_a_total_time() -> None:
    found = design.minimise(
        variance,
        train(),
        "flip",
        "esp",
        bounds={"flip": (10 * deg, 180 * deg), "esp": (5 * ms, None)},
        constraints=(
            design.rms("flip", 120 * deg),
            design.at_most(lambda q: len(q.flip) * q.esp, 120 * ms, "train length"),
        ),
    )
    assert found.success
    assert found.record.esp * 8 <= 120 * ms * (1 + 1e-6)
    assert found.record.esp > 10 * ms
    assert found.value < found.start_value


def test_progress_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    design.minimise(bowl, Plan(a=[0.0, 0.0, 0.0]), "a", progress=True)
    assert "violation" in capsys.readouterr().err


# Misuse


def test_misuse_is_explained() -> None:
    plan = Plan(a=[0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="method must be one of"):
        design.minimise(bowl, plan, "a", method="Newton")
    with pytest.raises(ValueError, match="flip"):
        design.minimise(bowl, plan, "flip")
    with pytest.raises(ValueError, match="bounds are given for 'b'"):
        design.minimise(bowl, plan, "a", bounds={"b": (0, 1)})
    with pytest.raises(ValueError, match="lower ≤ upper"):
        design.minimise(bowl, plan, "a", bounds={"a": (1, 0)})
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        design.minimise(bowl, plan, "a", bounds={"a": (torch.zeros(2), 1)})
    with pytest.raises(ValueError, match="one real number"):
        design.minimise(lambda q: q.a, plan, "a")
    with pytest.raises(ValueError, match="one real number"):
        design.minimise(lambda q: torch.complex(q.a, q.a).sum(), plan, "a")
    with pytest.raises(ValueError, match="LBFGS takes no bounds"):
        design.minimise(bowl, plan, "a", bounds={"a": (0, 1)}, method="LBFGS")
    with pytest.raises(ValueError, match="finite bounds"):
        design.random_starts(plan, "a", bounds={"a": (0, None)})
