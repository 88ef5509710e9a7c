"""Shapes and water from signals: what is recovered, its bound, and interruptions."""

import warnings

import pytest
import torch
from torch.func import grad, vmap

import mrsim
from mrsim import torrey, tract
from mrsim.torrey._surface_distance import surface_distance
from mrsim.units import ms, um

SIGMA = 1 / 50
WATER = torrey.Water(D=2e-3)
SMALL, SMALL_TOPOLOGY = torrey.sphere_chart((2,))


@mrsim.record
class Cell:
    shape: torrey.Ball
    water: torrey.Water


def protocol(count: int = 4) -> torrey.PGSE:
    """Three shells at one diffusion time."""
    q = (torch.tensor([0.4, 0.8, 1.2]) / um / (8 * ms)).repeat_interleave(count)
    n = len(q)
    return torrey.PGSE(
        q=q,
        direction=tract.hemisphere(count).repeat(3, 1),
        delta=torch.full((n,), 8 * ms),
        Delta=torch.full((n,), 30 * ms),
    )


def signals(nodes, topology, water, encodings, modes=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a cut that completes a group of modes
        basis = torrey.laplace(nodes, topology, water, modes=modes)
    return vmap(torrey.signal, (None, 0))(basis, encodings).real


def ball_signals(ball: torrey.Ball, encodings: torrey.PGSE) -> torch.Tensor:
    nodes = torrey.ball(SMALL, ball)
    return signals(nodes, SMALL_TOPOLOGY, WATER, encodings, 20)


def test_radius_from_noisy_signals_within_its_bound(generator):
    encodings = protocol()
    fine, far = torrey.mesh_sphere(5 * um, size=1.4 * um)
    clean = signals(fine, far, WATER, encodings, 40)
    data = clean + SIGMA * torch.randn(clean.shape, generator=generator)
    fit = torrey.recover(lambda x: ball_signals(x, encodings), "radii", sigma=SIGMA)
    found = fit(data, torrey.Ball(radii=3.5 * um))
    sd = float(found.covariance.sqrt())
    assert found.finished
    assert 0 < sd < 0.02 * 5 * um
    # the coarse mesh adds under 2 %
    assert abs(float(found.params.radii) - 5 * um) < 4 * sd + 0.02 * 5 * um
    assert (found.history.diff() <= 0).all()
    bound = mrsim.crlb(ball_signals, "radii", sigma=SIGMA)(found.params, encodings)
    assert abs(float(bound.radii) ** 0.5 / sd - 1) < 1e-6


def test_shape_and_water_together_from_clean_signals():
    encodings = protocol()

    def model(cell: Cell) -> torch.Tensor:
        nodes = torrey.ball(SMALL, cell.shape)
        return signals(nodes, SMALL_TOPOLOGY, cell.water, encodings, 20)

    true = Cell(shape=torrey.Ball(radii=5 * um), water=WATER)
    start = Cell(shape=torrey.Ball(radii=4 * um), water=torrey.Water(D=1.4e-3))
    fit = torrey.recover(model, "shape.radii", "water.D", sigma=1e-6)
    found = fit(model(true), start).params
    assert abs(float(found.shape.radii) / (5 * um) - 1) < 1e-5
    assert abs(float(found.water.D) / 2e-3 - 1) < 1e-4


def test_bounds_have_right_gradients_in_the_protocol():
    encodings = protocol(2)
    bound = mrsim.crlb(ball_signals, "radii", sigma=SIGMA)

    def cost(x: torrey.PGSE) -> torch.Tensor:
        return bound(torrey.Ball(radii=5 * um), x).radii.log()

    slope = grad(cost)(encodings)
    for name in ("q", "Delta", "delta", "direction"):
        at = getattr(encodings, name)
        assert getattr(slope, name).isfinite().all()
        h = 1e-4 * at.flatten()[0]
        move = torch.zeros(at.numel()).index_fill(0, torch.tensor(0), h)
        values = [
            cost(mrsim.replace(encodings, **{name: at + s * move.reshape(at.shape)}))
            for s in (1, -1)
        ]
        wanted = (values[0] - values[1]) / (2 * h)
        made = getattr(slope, name).flatten()[0]
        assert abs(made - wanted) < 1e-4 * abs(wanted) + 1e-6 * abs(
            values[0] / at.max()
        )
    better = mrsim.replace(
        encodings, Delta=encodings.Delta - 2e-4 * slope.Delta / slope.Delta.norm()
    )
    assert cost(better) < cost(encodings)


def test_free_nodes_follow_a_signal():
    encodings = protocol(6)
    true = torrey.Ellipsoid(axes=[4 * um, 4 * um, 6 * um])
    wanted = torrey.ellipsoid(SMALL, true)
    data = signals(wanted, SMALL_TOPOLOGY, WATER, encodings, 20)
    start = torrey.ball(SMALL, torrey.Ball(radii=4.5 * um))

    def loss(x: torrey.Nodes) -> torch.Tensor:
        misfit = (signals(x, SMALL_TOPOLOGY, WATER, encodings, 20) - data) / SIGMA
        stiff = torrey.distortion(x, SMALL_TOPOLOGY, start)
        return misfit.square().mean() + 0.1 * stiff

    metric = torrey.smooth_metric(start, SMALL_TOPOLOGY, length=5 * um)
    found = torrey.optimise_mesh(loss, start, metric=metric, iterations=15)
    assert found.loss < 0.05 * found.history[0]
    pair = (wanted, SMALL_TOPOLOGY)
    before, after = (
        surface_distance(x, SMALL_TOPOLOGY, *pair) for x in (start, found.params)
    )
    assert after < 0.3 * before
    assert float(torrey.volumes(found.params, SMALL_TOPOLOGY).min()) > 0


def shrink(x: torrey.Nodes) -> torch.Tensor:
    volume = torrey.volumes(x, SMALL_TOPOLOGY).sum() / (100 * um**3)
    rest = torrey.ball(SMALL, torrey.Ball(radii=3 * um))
    return (volume - 1).square() + torrey.distortion(x, SMALL_TOPOLOGY, rest)


START = torrey.ball(SMALL, torrey.Ball(radii=3 * um))


def test_descent_reaches_the_minimum_and_shows_a_bar(capsys):
    pytest.importorskip("tqdm")
    found = torrey.optimise_mesh(shrink, START, iterations=100, progress=True)
    assert found.finished
    assert float(found.loss) < 1e-6
    assert "loss" in capsys.readouterr().err


def test_interruption_keeps_the_best_so_far():
    def stop(step: int, _params: torrey.Nodes, _loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    found = torrey.optimise_mesh(shrink, START, callback=stop)
    assert not found.finished
    assert len(found.history) == 4
    assert float(shrink(found.params)) == float(found.loss) < float(found.history[0])

    fit = torrey.recover(
        lambda x: ball_signals(x, protocol(1)), "radii", sigma=1e-9, callback=stop
    )
    data = ball_signals(torrey.Ball(radii=5 * um), protocol(1))
    kept = fit(data, torrey.Ball(radii=2 * um))
    assert not kept.finished
    assert len(kept.history) == 4
    assert float(kept.cost) < float(kept.history[0])


def test_remeshing_goes_on_from_the_new_mesh():
    calls = []

    def remesh(x: torrey.Nodes):
        calls.append(x)
        if len(calls) != 2:
            return None
        finer, topology = torrey.sphere_chart((3,))
        scale = (torrey.volumes(x, SMALL_TOPOLOGY).sum() * 3 / 4 / torch.pi) ** (1 / 3)
        nodes = torrey.ball(finer, torrey.Ball(radii=scale))

        def loss(y: torrey.Nodes) -> torch.Tensor:
            return (torrey.volumes(y, topology).sum() / (100 * um**3) - 1).square()

        return nodes, loss, None

    found = torrey.optimise_mesh(shrink, START, remesh=remesh)
    assert found.params.points.shape[0] == 147
    assert float(found.loss) < 1e-6


def test_a_start_without_loss_is_refused():
    inside_out = torrey.Nodes(points=-START.points)
    with pytest.raises(ValueError, match=r"loss is inf at the start.*mesh_quality"):
        torrey.optimise_mesh(shrink, inside_out)


def test_smooth_metric_is_symmetric_positive_and_smooths(generator):
    nodes, topology = torrey.mesh_sphere(5 * um, size=1.5 * um)
    metric = torrey.smooth_metric(nodes, topology, length=2 * um)
    a, b = torch.randn(2, *nodes.points.shape, generator=generator)
    one, two = (metric(torrey.Nodes(points=x)).points for x in (a, b))
    assert torch.allclose((a * two).sum(), (b * one).sum())
    assert (a * one).sum() > 0
    spike = torch.zeros_like(nodes.points)
    spike[0, 0] = 1.0
    made = metric(torrey.Nodes(points=spike)).points
    assert int((made[:, 0] > 0.2 * made[:, 0].max()).sum()) > 10
    assert float(made[:, 1:].abs().max()) < 1e-9 * float(made.max())


def test_surface_distance_of_spheres():
    five, six = (torrey.mesh_sphere(r * um, size=1.6 * um) for r in (5, 6))
    made = float(surface_distance(*five, *six))
    assert abs(made / um - 1) < 0.05
    assert float(surface_distance(*five, *five)) < 1e-12
