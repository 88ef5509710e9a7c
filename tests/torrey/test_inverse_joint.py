"""Every parametrised shape, water with it, and protocols made for them."""

import warnings

import pytest
import torch
from torch.func import vmap

import mrsim
from mrsim import design, torrey, tract
from mrsim.tree import get
from mrsim.units import ms, um

WATER = torrey.Water(D=2e-3)


@mrsim.record
class Cell:
    shape: torrey.Ball
    water: torrey.Water


def protocol(count: int, times: tuple[float, ...] = (30 * ms,)) -> torrey.PGSE:
    """Three shells at every diffusion time."""
    q = (torch.tensor([0.4, 0.8, 1.2]) / um / (8 * ms)).repeat_interleave(count)
    n = len(q) * len(times)
    return torrey.PGSE(
        q=q.repeat(len(times)),
        direction=tract.hemisphere(count).repeat(3 * len(times), 1),
        delta=torch.full((n,), 8 * ms),
        Delta=torch.tensor(times).repeat_interleave(len(q)),
    )


def signals(nodes, topology, water, encodings, modes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a cut that completes a group of modes
        basis = torrey.laplace(nodes, topology, water, modes=modes)
    return vmap(torrey.signal, (None, 0))(basis, encodings).real


ROD = torrey.cylinder_chart((2,), slices=4)
BALL = torrey.sphere_chart((2,))
SHAPES = {
    "axon": (
        torrey.axon,
        ROD,
        torrey.Axon(radii=3 * um, length=12 * um, bead=0.2, bend=70.0),
        torrey.Axon(radii=2.6 * um, length=11 * um, bead=0.1, bend=40.0),
        ("radii", "length", "bead", "bend"),
    ),
    "ellipsoid": (
        torrey.ellipsoid,
        BALL,
        torrey.Ellipsoid(axes=[3 * um, 4 * um, 6 * um]),
        torrey.Ellipsoid(axes=[4 * um, 4.4 * um, 4.8 * um]),
        ("axes",),
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_come_back_from_clean_signals(name):
    place, (chart, topology), true, start, names = SHAPES[name]
    encodings = protocol(4)
    model = lambda x: signals(place(chart, x), topology, WATER, encodings, 12)  # noqa: E731
    found = torrey.recover(model, *names, sigma=1e-5)(model(true), start)
    assert found.finished
    for field in names:
        made, wanted = getattr(found.params, field), getattr(true, field)
        assert torch.allclose(made, wanted, rtol=1e-4), field


def test_radii_with_all_that_fills_them():
    encodings = protocol(2, (12 * ms, 40 * ms))
    chart, topology = torrey.sphere_chart((2, 1))

    def model(x: Cell) -> torch.Tensor:
        nodes = torrey.ball(chart, x.shape)
        return signals(nodes, topology, x.water, encodings, 14)

    true = Cell(
        shape=torrey.Ball(radii=[4 * um, 6 * um]),
        water=torrey.Water(D=2e-3, T2=0.08, kappa=0.02),
    )
    start = Cell(
        shape=torrey.Ball(radii=[3.6 * um, 6.3 * um]),
        water=torrey.Water(D=1.7e-3, T2=0.1, kappa=0.03),
    )
    names = ("shape.radii", "water.D", "water.T2", "water.kappa")
    found = torrey.recover(model, *names, sigma=1e-5)(model(true), start).params
    for name in names:
        assert torch.allclose(get(found, name), get(true, name), rtol=1e-3), name


def test_free_nodes_and_water_descend_together():
    encodings = protocol(4, (12 * ms, 40 * ms))
    chart, topology = BALL
    true = torrey.ellipsoid(chart, torrey.Ellipsoid(axes=[4 * um, 4 * um, 5 * um]))
    data = signals(true, topology, WATER, encodings, 20)
    start = torrey.ball(chart, torrey.Ball(radii=4.3 * um))

    def loss(x: tuple[torrey.Nodes, torrey.Water]) -> torch.Tensor:
        nodes, water = x
        misfit = (signals(nodes, topology, water, encodings, 20) - data) / 0.01
        return misfit.square().mean() + torrey.distortion(nodes, topology, start)

    guess = (start, torrey.Water(D=1.6e-3))
    smooth = torrey.smooth_metric(start, topology, length=5 * um)
    part = torrey.volumes(start, topology).sum() / len(start.points)

    def metric(slope: tuple[torrey.Nodes, torrey.Water]) -> tuple:
        way = smooth(slope[0]).points * part * (4 * um) ** 2
        return torrey.Nodes(points=way), torrey.Water(D=slope[1].D * 2e-3**2)

    found = torrey.optimise_mesh(loss, guess, metric, iterations=20)
    nodes, water = found.params
    assert found.loss < 0.02 * found.history[0]
    assert abs(float(water.D) / 2e-3 - 1) < 0.08
    extent = nodes.points.amax(0) - nodes.points.amin(0)
    assert 1.12 < extent[2] / extent[:2].mean() < 1.4  # from 1; true 1.25


def test_protocols_are_designed_over_directions_q_and_timings():
    pytest.importorskip("scipy")
    chart, topology = BALL
    true = torrey.Ellipsoid(axes=[3 * um, 4 * um, 5 * um])

    def model(shape: torrey.Ellipsoid, pairs: torrey.PGSE) -> torch.Tensor:
        length = pairs.direction.norm(dim=-1, keepdim=True)
        unit = mrsim.replace(pairs, direction=pairs.direction / length)
        return signals(torrey.ellipsoid(chart, shape), topology, WATER, unit, 14)

    variance = mrsim.crlb(model, "axes", sigma=0.02)

    def cost(pairs: torrey.PGSE) -> torch.Tensor:
        return variance(true, pairs).axes.log().sum() + 50

    n = 4
    start = torrey.PGSE(
        q=torch.full((n,), 0.4 / um / (8 * ms)),
        direction=torch.tensor([[1.0, 1, 1], [2, 1, 1], [1, 2, 1], [1, 1, 2]]),
        delta=torch.full((n,), 8 * ms),
        Delta=torch.full((n,), 20 * ms),
    )
    high = 1.2 / um / (8 * ms)
    found = design.minimise(
        cost,
        start,
        "q",
        "direction",
        "delta",
        "Delta",
        bounds={"q": (0, high), "delta": (2 * ms, 8 * ms), "Delta": (10 * ms, 60 * ms)},
        iterations=4,
    )
    made = found.record
    # three variances, each by a factor of 10 in the geometric mean
    assert float(cost(made)) < float(cost(start)) - 3 * 2.3
    assert (made.q <= high).all()
    for field in ("q", "direction", "delta", "Delta"):
        assert not torch.equal(getattr(made, field), getattr(start, field)), field
