"""Shapes as differentiable maps from parameters to nodes."""

import math
import pickle

import pytest
import torch
from torch.func import hessian, jacfwd, jacrev, vmap

import mrsim
from mrsim import torrey
from mrsim.tree import tree_leaves, tree_map
from mrsim.units import um

BALL, _ = torrey.sphere_chart((2, 1))
ROD, ROD_TOPOLOGY = torrey.cylinder_chart((1, 1), slices=4)
CASES = {
    "ball": (torrey.ball, BALL, torrey.Ball(radii=[3 * um, 5 * um])),
    "ellipsoid": (
        torrey.ellipsoid,
        BALL,
        torrey.Ellipsoid(axes=[3 * um, 4 * um, 5 * um], layers=[0.6, 1.0]),
    ),
    "axon": (
        torrey.axon,
        ROD,
        torrey.Axon(
            radii=[2 * um, 3 * um],
            length=12 * um,
            bead=0.2,
            bead_length=6 * um,
            flat=0.1,
            twist=50.0,
            bend=40.0,
        ),
    ),
    "straight": (torrey.axon, ROD, torrey.Axon(radii=[2 * um, 3 * um], length=12 * um)),
}


@pytest.mark.parametrize("name", CASES)
def test_derivatives_agree_in_both_modes_and_with_differences(name):
    f, chart, shape = CASES[name]
    points = lambda x: f(chart, x).points  # noqa: E731
    forward, reverse = (tree_leaves(j(points)(shape)) for j in (jacfwd, jacrev))
    for k, leaf in enumerate(tree_leaves(shape)):
        assert torch.allclose(forward[k], reverse[k], rtol=1e-10, atol=1e-15)
        h = 1e-6 * float(leaf.abs().max())

        def moved(s, k=k, h=h):
            leaves = iter(range(99))
            return tree_map(lambda x: x + s * h * (next(leaves) == k), shape)

        change = (points(moved(1)) - points(moved(-1))) / (2 * h)
        made = forward[k].reshape(*change.shape, -1).sum(-1)
        size = float(made.abs().max()) + float(
            points(shape).abs().max() / leaf.abs().max()
        )
        assert torch.allclose(made, change, rtol=1e-5, atol=1e-8 * size)


@pytest.mark.parametrize("name", CASES)
def test_one_is_its_slice_of_vmap_and_float32_stays(name):
    f, chart, shape = CASES[name]
    batch = tree_map(lambda x: torch.stack([x, 1.1 * x, 0.9 * x]), shape)
    many = vmap(f, in_dims=(None, 0))(chart, batch).points
    one = f(chart, tree_map(lambda x: x[1], batch)).points
    assert torch.allclose(many[1], one, rtol=1e-12)
    low = f(chart, mrsim.to(shape, torch.float32)).points
    assert low.dtype == torch.float32
    high = f(chart, shape).points
    assert float((low - high).abs().max()) < 1e-5 * float(high.abs().max())
    assert pickle.loads(pickle.dumps(shape)) is not None


def test_absent_is_neutral():
    bare = CASES["straight"][2]
    full = mrsim.replace(bare, bead=0.0, flat=0.0, twist=0.0, bend=0.0)
    made, wanted = (torrey.axon(ROD, x).points for x in (full, bare))
    assert torch.allclose(made, wanted, atol=1e-18)


def test_second_derivatives_hold_where_the_axis_is_straight():
    def end(bend):
        shape = mrsim.replace(CASES["straight"][2], bend=bend)
        return torrey.axon(ROD, shape).points[-1]

    here = torch.zeros(())
    made = hessian(end)(here)
    s, x = 6 * um, float(torrey.axon(ROD, CASES["straight"][2]).points[-1, 0])
    assert torch.allclose(made, torch.tensor([-x * s**2, 0.0, -(s**3) / 3]), rtol=1e-9)


def test_series_and_closed_form_of_the_bend_meet():
    shape = lambda k: mrsim.replace(CASES["straight"][2], bend=k)  # noqa: E731
    edge = torch.tensor(0.3 / (6 * um))
    for g in (lambda k: torrey.axon(ROD, shape(k)).points[-1, 2],):
        chain = [g, jacfwd(g), jacfwd(jacfwd(g))]
        for h in chain:
            below, above = h(edge * (1 - 1e-13)), h(edge * (1 + 1e-13))
            assert abs(above / below - 1) < 1e-9


def test_bend_keeps_length_and_volume():
    chart, topology = torrey.cylinder_chart((3,), slices=40)
    straight = torrey.Axon(radii=2 * um, length=20 * um)
    bent = mrsim.replace(straight, bend=1 / (10 * um))
    axis = (chart.across.norm(dim=-1) == 0).nonzero()[:, 0]
    line = torrey.axon(chart, bent).points[axis]
    assert abs(float(line.diff(dim=0).norm(dim=-1).sum()) / (20 * um) - 1) < 2e-3
    a, b = (
        torrey.volumes(torrey.axon(chart, x), topology).sum() for x in (straight, bent)
    )
    assert abs(b / a - 1) < 2e-3  # Pappus


def test_beads_have_their_closed_volume():
    chart, topology = torrey.cylinder_chart((3,), slices=80)
    shape = torrey.Axon(radii=2 * um, length=20 * um, bead=0.3, bead_length=10 * um)
    volume = torrey.volumes(torrey.axon(chart, shape), topology).sum()
    wanted = math.pi * 4 * 20 * (1 + 0.3**2 / 2) * um**3
    assert abs(volume / wanted - 1) < 1e-3


def test_interfaces_move_once():
    slope = jacfwd(lambda x: torrey.ball(BALL, x).points)(CASES["ball"][2]).radii
    inner = slope[..., 0].norm(dim=-1)
    on = (BALL.weight[:, 0] == 1).nonzero()[:, 0]
    assert torch.allclose(inner[on], BALL.across[on].norm(dim=-1))
    assert float(slope[on][..., 1].abs().max()) == 0


def test_wrong_radii_are_named():
    with pytest.raises(ValueError, match=r"\(layer,\) = \(2,\)"):
        torrey.ball(BALL, torrey.Ball(radii=[1.0, 2.0, 3.0]))
    with pytest.raises(ValueError, match=r"axes must have shape \(3,\)"):
        torrey.ellipsoid(BALL, torrey.Ellipsoid(axes=[1.0, 2.0]))
