"""A bend: what tells it from its mirror image, and the way that free nodes take."""

import warnings

import torch
from torch.func import vmap

import mrsim
from mrsim import torrey, tract
from mrsim.units import ms, um

CHART, TOPOLOGY = torrey.cylinder_chart((2,), slices=6)
WATER = torrey.Water(D=2e-3)
STRAIGHT = torrey.Axon(radii=3 * um, length=18 * um)
BENT = mrsim.replace(STRAIGHT, bend=-1 / (16 * um) * torch.ones(()))


def basis_of(nodes: torrey.Nodes) -> torrey.Basis:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a cut that completes a group of modes
        return torrey.laplace(nodes, TOPOLOGY, WATER, modes=12)


def phased(nodes: torrey.Nodes) -> torch.Tensor:
    """A long weak and a short strong pulse: the Fourier transform of the shape."""
    times = torch.tensor([0, 60, 64]) * ms
    u = tract.hemisphere(8).repeat(3, 1)
    Q = torch.tensor([0.25, 0.5, 0.8]).repeat_interleave(8)[:, None] * u / um
    vectors = torch.stack([Q / (60 * ms), -Q / (4 * ms), 0 * Q], 1)

    def one(basis: torrey.Basis, v: torch.Tensor) -> torch.Tensor:
        pulses = torrey.Waveform(times=times, vectors=v, linear=False, steps=1)
        return torrey.signal(basis, pulses)

    return vmap(one, (None, 0))(basis_of(nodes), vectors)


def paired(nodes: torrey.Nodes) -> torch.Tensor:
    n = torch.ones(12)
    pairs = torrey.PGSE(
        q=n * 0.5 / um / (4 * ms),
        direction=tract.hemisphere(12),
        delta=n * 4 * ms,
        Delta=n * 40 * ms,
    )
    return vmap(torrey.signal, (None, 0))(basis_of(nodes), pairs)


def test_only_a_phase_tells_a_bend_from_its_mirror_image():
    bent = torrey.axon(CHART, BENT)
    mirrored = torrey.Nodes(points=bent.points * torch.tensor([-1.0, -1.0, 1.0]))
    assert torch.allclose(paired(bent).real, paired(mirrored).real, atol=1e-3)
    one, two = phased(bent), phased(mirrored)
    # the mesh is not quite symmetric
    assert float((one - two.conj()).abs().amax()) < 5e-3
    assert float((one - two).abs().amax()) > 0.1


def test_free_nodes_turn_to_the_side_of_the_bend():
    true, start = torrey.axon(CHART, BENT), torrey.axon(CHART, STRAIGHT)
    data = phased(true)

    def loss(x: torrey.Nodes) -> torch.Tensor:
        away = phased(x) - data
        misfit = (away.real.square() + away.imag.square()).mean() / 0.02**2
        return misfit + 2 * torrey.distortion(x, TOPOLOGY, start)

    metric = torrey.smooth_metric(start, TOPOLOGY, length=6 * um)
    found = torrey.optimise_mesh(loss, start, metric, iterations=6)
    middle, ends = ((CHART.along.abs() - h).abs() < 1e-9 for h in (0, 0.5))

    def bow(x: torrey.Nodes) -> torch.Tensor:
        return (x.points[ends].mean(0) - x.points[middle].mean(0))[0]

    assert float(bow(true)) < -2 * um
    assert 0.25 < float(bow(found.params) / bow(true)) < 1.2
    assert found.loss < 0.1 * found.history[0]
