"""Objectives over many tissues: averages, worst cases, clusters of maps, memory."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

import mrsim
from mrsim import Tissue, design, epg
from mrsim._batched import peak_bytes
from mrsim.units import deg, ms


def spread(count: int) -> Tissue:
    T2 = torch.linspace(0.04, 0.15, count)
    return Tissue(T1=10 * T2, T2=T2)


def cost(tissue: Tissue, seq: epg.FISP) -> Tensor:
    bound = mrsim.crlb(epg.fisp, "M0", "T1", "T2", sigma=0.01)(tissue, seq)
    return bound.T1 / tissue.T1**2 + bound.T2 / tissue.T2**2


def schedule(n: int) -> epg.FISP:
    t = torch.arange(n)
    flip = (10 + 40 * (t * 0.15).sin().abs()) * deg
    return epg.FISP(flip=flip, TR=torch.full((n,), 12 * ms), TI=20 * ms)


def test_power_goes_from_the_average_to_the_worst_case() -> None:
    tissues, seq = spread(5), schedule(8)
    weights = torch.tensor([1.0, 2.0, 3.0, 2.0, 1.0])
    each = vmap(cost, (0, None))(tissues, seq)
    goals = [
        float(design.over(cost, tissues, weights, power=p)(seq))
        for p in (1.0, 2.0, 8.0, 1e4, math.inf)
    ]
    assert goals[0] == pytest.approx(float((weights * each).sum() / 9))
    square = (weights * each.square()).sum() / 9
    assert goals[1] == pytest.approx(float(square.sqrt()))
    assert goals == sorted(goals)
    assert goals[-2] == pytest.approx(goals[-1], rel=1e-3)
    assert goals[-1] == float(each.max())
    assert float(design.over(cost, tissues)(seq)) == pytest.approx(float(each.mean()))
    with pytest.raises(ValueError, match="at least 1"):
        design.over(cost, tissues, power=0.5)
    for bad in (torch.ones(2), -weights, torch.zeros_like(weights)):
        with pytest.raises(ValueError, match="one for each tissue"):
            design.over(cost, tissues, bad)


@pytest.mark.parametrize("power", [1.0, 2.0, math.inf])
def test_tissues_of_weight_0_take_no_part(power: float) -> None:
    pair = Tissue(T1=torch.tensor([1.0, 2.0, 5.0]), T2=torch.tensor([0.1, 0.2, 0.0]))

    def late(tissue: Tissue, t: Tensor) -> Tensor:
        return t / tissue.T2

    t, weights = torch.tensor(0.3), torch.tensor([1, 3, 0])
    two = mrsim.tree.tree_map(lambda v: v[:2], pair)
    wanted = design.over(late, two, weights[:2], power=power)(t)
    assert wanted.isfinite()
    assert torch.equal(design.over(late, pair, weights, power=power)(t), wanted)


@pytest.mark.parametrize("power", [1.0, 4.0, math.inf])
def test_gradient_in_little_memory_is_the_gradient(power: float) -> None:
    tissues, seq = spread(6), schedule(10)
    small = grad(design.over(cost, tissues, power=power, memory=1))(seq)

    def plain(q: epg.FISP) -> Tensor:
        each = vmap(cost, (0, None))(tissues, q)
        return each.amax() if math.isinf(power) else (each**power).mean() ** (1 / power)

    whole = grad(plain)(seq)
    for name in ("flip", "TR", "TI"):
        torch.testing.assert_close(
            getattr(small, name), getattr(whole, name), rtol=1e-9, atol=1e-14
        )


def test_memory_of_a_gradient_does_not_grow_with_the_tissues() -> None:
    seq = schedule(10)

    def bytes_of(count: int, memory: int) -> int:
        goal = design.over(cost, spread(count), memory=memory)
        return peak_bytes(grad(goal), seq)

    one = bytes_of(1, 1)
    assert bytes_of(24, 4 * one) < 6 * one
    assert bytes_of(24, 10**9) > 12 * one


def test_tissues_sum_up_maps(generator: torch.Generator) -> None:
    kinds = torch.tensor([[0.8, 0.07], [1.4, 0.1], [4.0, 1.5]])
    shares = torch.tensor([0.5, 0.3, 0.2])
    which = torch.repeat_interleave(torch.arange(3), (shares * 1000).long())
    values = kinds[which] * (0.03 * torch.randn(1000, 2, generator=generator)).exp()
    order = torch.randperm(1000, generator=generator)
    T1, T2 = values[order].reshape(10, 100, 2).unbind(-1)
    T2 = torch.where(torch.arange(100) == 3, torch.nan, T2)
    maps = Tissue(T1=T1, T2=T2, B1=0.9)
    found, share = design.tissues(maps, 3)
    torch.testing.assert_close(found.T2, kinds[:, 1], rtol=0.02, atol=0)
    torch.testing.assert_close(found.T1, kinds[:, 0], rtol=0.02, atol=0)
    torch.testing.assert_close(share, shares, rtol=0.1, atol=0)
    assert mrsim.tree.get(found, "B1").tolist() == [0.9] * 3
    again, _ = design.tissues(maps, 3)
    assert torch.equal(again.T2, found.T2)
    part, one = design.tissues(maps, 1, mask=T1 < 1.1)
    assert part.T1.item() == pytest.approx(0.8, rel=0.01)
    assert one.tolist() == [1.0]
    few, _ = design.tissues(Tissue(T1=torch.ones(2), T2=torch.tensor([0.1, 0.2])), 9)
    assert few.T2.tolist() == pytest.approx([0.1, 0.2])
    with pytest.raises(ValueError, match="no field"):
        design.tissues(Tissue(T1=1.0, T2=0.1), 3)
    with pytest.raises(ValueError, match="no voxel"):
        design.tissues(maps, 3, mask=T1 < 0)


@mrsim.record
class Echoes:
    """Echo times."""

    TE: Tensor  # (echo,) [s]


def test_worst_case_design_serves_the_worst_tissue() -> None:
    def decay(tissue: Tissue, q: Echoes) -> Tensor:
        return tissue.M0 * (-q.TE / tissue.T2).exp()

    def relative(tissue: Tissue, q: Echoes) -> Tensor:
        bound = mrsim.crlb(decay, "M0", "T2", sigma=0.01)(tissue, q)
        return bound.T2 / tissue.T2**2

    T2 = torch.tensor([0.03, 0.06, 0.3])
    tissues = Tissue(T1=10 * T2, T2=T2, M0=torch.ones(3))
    known: dict[str, Any] = {"bounds": {"TE": (0.001, 0.5)}, "tolerance": 1e-9}
    start = Echoes(TE=[0.005, 0.03, 0.06, 0.1])
    mean, worst = (design.over(relative, tissues, power=p) for p in (1.0, math.inf))
    smooth = design.over(relative, tissues, power=30.0)
    average = design.minimise(mean, start, "TE", **known).record
    careful = design.minimise(smooth, start, "TE", **known).record
    assert float(mean(average)) < float(mean(start))
    assert float(worst(careful)) < 0.98 * float(worst(average))
    assert float(mean(average)) < 0.98 * float(mean(careful))
