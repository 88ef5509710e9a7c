"""Many starts, and designs that go on after an interruption."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from design_models import TISSUE, Plan, banana, bowl, train, variance
from torch import Tensor
from torch.func import vmap

import mrsim
from mrsim import design, epg, tree
from mrsim.units import deg


def waves(plan: Plan) -> Tensor:
    """Have many minima; the least lies at 0.3 in every entry."""
    x = plan.a - 0.3
    return 2 + (0.1 * x.square() - (3 * x).cos()).mean()


# Checkpoints


class KilledError(Exception):
    pass


def interrupted(cost: Callable[[Any], Tensor], calls: int) -> Callable[[Any], Tensor]:
    """Raise after a number of calls, like a killed job."""
    left = [calls]

    def wrapped(plan: Any) -> Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise KilledError
        return cost(plan)

    return wrapped


def test_checkpoint_resumes_after_an_interruption(tmp_path: Path) -> None:
    path, start = tmp_path / "design.pt", Plan(a=[-1.2, 1.0, -0.5, 0.8])
    with pytest.raises(KilledError):
        design.minimise(interrupted(banana, 20), start, "a", checkpoint=path)
    again = design.minimise(interrupted(banana, 500), start, "a", checkpoint=path)
    torch.testing.assert_close(again.record.a, torch.ones(4), rtol=1e-3, atol=0)
    assert again.start_value == float(banana(start))
    assert again.history.value[0] > 1e3 * again.history.value[-1]
    assert list(tmp_path.iterdir()) == [path]
    third = design.minimise(interrupted(banana, 1), start, "a", checkpoint=path)
    assert third.value == again.value
    assert torch.equal(third.record.a, again.record.a)
    assert third.success


def test_checkpoint_counts_the_iterations_already_made(tmp_path: Path) -> None:
    path, start = tmp_path / "design.pt", Plan(a=[-1.2, 1.0, -0.5, 0.8])
    few = design.minimise(banana, start, "a", iterations=5, checkpoint=path)
    assert len(few.history.value) == 5
    assert not few.success
    more = design.minimise(banana, start, "a", iterations=200, checkpoint=path)
    assert torch.equal(more.history.value[:5], few.history.value)
    assert more.value < few.value


def test_checkpoint_of_another_problem_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "design.pt"
    design.minimise(bowl, Plan(a=[0.0, 0.0, 0.0]), "a", checkpoint=path)
    with pytest.raises(ValueError, match="another problem"):
        design.minimise(bowl, Plan(a=[0.0, 0.0, 1.0]), "a", checkpoint=path)


# Many starts


def test_random_starts_are_diverse_and_feasible(generator: torch.Generator) -> None:
    limits = (design.rms("flip", 60 * deg), design.slew("flip", 100 * deg))
    bounds = {"flip": (10 * deg, 180 * deg)}
    start = train()
    batch = design.random_starts(
        start, "flip", bounds=bounds, constraints=limits, count=40, generator=generator
    )
    assert batch.flip.shape == (40, 8)
    assert batch.esp.shape == (40,)
    torch.testing.assert_close(batch.flip[0], start.flip)
    assert ((batch.flip >= 10 * deg) & (batch.flip <= 180 * deg)).all()
    assert all(vmap(c.excess)(batch).max() <= 1e-12 for c in limits)
    assert torch.pdist(batch.flip).min() > 1e-3
    assert batch.flip.std(0).min() > 5 * deg


def test_random_starts_repeat_with_their_generator() -> None:
    def draw() -> Tensor:
        generator = torch.Generator().manual_seed(3)
        bounds = {"a": (0.0, 1.0)}
        plan = Plan(a=[0.0] * 9)
        return design.random_starts(plan, "a", bounds=bounds, generator=generator).a

    assert torch.equal(draw(), draw())
    assert draw().shape == (256, 9)


def test_multistart_finds_the_least_of_many_minima(
    generator: torch.Generator,
) -> None:
    start, bounds = Plan(a=[4.0] * 3), {"a": (-5.0, 5.0)}
    single = design.minimise(waves, start, "a", bounds=bounds)
    starts = design.random_starts(
        start, "a", bounds=bounds, count=200, generator=generator
    )
    found = design.multistart(waves, starts, "a", bounds=bounds, polish=3)
    values = [d.value for d in found]
    assert len(found) == 3
    assert values == sorted(values)
    assert values[0] < single.value
    torch.testing.assert_close(
        found[0].record.a, torch.full((3,), 0.3), atol=1e-4, rtol=0
    )
    assert found[0].record.b is None


def test_multistart_without_descent_polishes_the_best_scores() -> None:
    starts = mrsim.expand(Plan(a=[0.0, 0.0, 0.0]), 3)
    starts = tree.replace(starts, a=torch.tensor([[4.0] * 3, [0.3] * 3, [-4.0] * 3]))
    (best,) = design.multistart(waves, starts, "a", steps=0, polish=1)
    assert best.start_value == pytest.approx(float(waves(Plan(a=[0.3] * 3))))


def test_multistart_polishes_a_place_once() -> None:
    starts = mrsim.expand(Plan(a=[0.0, 0.0, 0.0]), 20)
    found = design.multistart(bowl, starts, "a", steps=5, polish=4)
    assert len(found) == 1


def test_multistart_skips_starts_that_are_not_finite() -> None:
    starts = mrsim.expand(train(), 6)
    flip = torch.full((6, 8), 180 * deg)
    some = torch.linspace(60, 120, 8) * deg
    starts = tree.replace(starts, flip=torch.cat([flip[:5], some[None]]))

    def cost(seq: epg.FSE) -> Tensor:
        return mrsim.crlb(epg.fse, "M0", "T2", "B1", sigma=1.0)(TISSUE, seq).B1

    found = design.multistart(cost, starts, "flip", steps=3, iterations=3)
    assert len(found) == 1
    assert found[0].value < float(cost(tree.replace(train(), flip=some)))
    nowhere = tree.replace(starts, flip=flip)
    with pytest.raises(ValueError, match="finite at none of the 6 starts"):
        design.multistart(
            lambda q: torch.where(q.flip.sum() > 0, math.inf, q.flip.sum()),
            nowhere,
            "flip",
        )


def test_multistart_in_little_memory_is_the_same() -> None:
    starts = mrsim.expand(Plan(a=[0.0, 0.0, 0.0]), 12)
    starts = tree.replace(starts, a=torch.linspace(-4, 4, 36).reshape(12, 3))
    whole = design.multistart(waves, starts, "a", steps=10, polish=2)
    parts = design.multistart(waves, starts, "a", steps=10, polish=2, memory=1)
    assert [d.value for d in whole] == [d.value for d in parts]


def test_multistart_resumes(tmp_path: Path) -> None:
    path = tmp_path / "starts.pt"
    starts = mrsim.expand(Plan(a=[0.0, 0.0, 0.0]), 8)
    starts = tree.replace(starts, a=torch.linspace(-4, 4, 24).reshape(8, 3))
    first = design.multistart(waves, starts, "a", polish=2, checkpoint=path)
    again = design.multistart(
        interrupted(waves, 2), starts, "a", polish=2, checkpoint=path
    )
    assert [d.value for d in first] == [d.value for d in again]
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["starts.pt", "starts.pt.0", "starts.pt.1"]


def test_absent_fields_may_be_designed_from_many_starts() -> None:
    starts = mrsim.expand(train(), 3)
    found = design.multistart(
        variance, starts, "phase", bounds={"phase": (-1, 1)}, steps=1, iterations=2
    )
    assert found[0].record.phase.shape == (8,)
