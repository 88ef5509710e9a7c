"""Shape of elements, and penalties on meshes, against closed forms."""

import math

import pytest
import torch
from torch.func import grad

from mrsim import torrey
from mrsim.torrey.quality import dihedral_angles, radius_ratio
from mrsim.units import deg, um

REGULAR = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * um


def sphere(size: float = 1.2) -> tuple[torrey.Nodes, torrey.Topology]:
    return torrey.mesh_sphere(5 * um, size * um)


def test_regular_and_corner_tetrahedra():
    assert abs(float(radius_ratio(REGULAR).abs()) - 1) < 1e-12
    angles = dihedral_angles(REGULAR)
    assert torch.allclose(angles, torch.full((6,), math.acos(1 / 3)))
    corner = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    inradius, circumradius = 1 / (3 + 3**0.5), 3**0.5 / 2
    assert abs(float(radius_ratio(corner)) - 3 * inradius / circumradius) < 1e-12
    wanted = torch.tensor([90.0, 90, 90, *[math.degrees(math.acos(3**-0.5))] * 3]) * deg
    assert torch.allclose(dihedral_angles(corner), wanted)


def test_report_names_the_worst_and_the_inverted():
    nodes, topology = sphere()
    inner = int((nodes.points.norm(dim=-1) < 1e-9).nonzero())
    shift = torch.zeros_like(nodes.points).index_fill(0, torch.tensor(inner), 3 * um)
    found = torrey.mesh_quality(torrey.Nodes(points=nodes.points + shift), topology)
    worst = int(found.worst[0])
    assert float(found.radius_ratio[worst]) == float(found.radius_ratio.min())
    assert inner in topology.point[topology.elements[worst]].tolist()
    assert torch.equal(found.volume < 0, found.radius_ratio < 0)
    assert (found.volume < 0).any()


def test_distortion_forgives_turns_and_size_alone():
    nodes, topology = sphere()
    turn = torch.linalg.qr(torch.tensor([[1.0, 2, 3], [0, 1, 4], [5, 6, 0]]))[0]
    turn = turn * turn.det().sign()
    turned = torrey.Nodes(points=1.7 * nodes.points @ turn.mT + 1e-3)
    assert float(torrey.distortion(turned, topology, nodes)) < 1e-12
    stretch = torch.tensor([1.0, 1.0, 2.0])
    long = torrey.Nodes(points=nodes.points * stretch)
    made = float(torrey.distortion(long, topology, nodes))
    assert abs(made - (6 / (3 * 2 ** (2 / 3)) - 1)) < 1e-12
    mirror = torrey.Nodes(points=nodes.points * torch.tensor([1.0, 1, -1]))
    assert float(torrey.distortion(mirror, topology, nodes)) == math.inf


def test_distortion_is_a_barrier():
    nodes, topology = torrey.make_mesh(REGULAR[[0, 2, 1, 3]], [[0, 1, 2, 3]])
    middle = REGULAR[[1, 2, 3]].mean(0)
    apex = int(torch.tensor([0]))
    values = []
    for share in (1e-1, 1e-2, 1e-3):
        moved = middle + share * (REGULAR[0] - middle)
        points = nodes.points.index_copy(0, torch.tensor([apex]), moved[None])
        values.append(
            float(torrey.distortion(torrey.Nodes(points=points), topology, nodes))
        )
    assert values[0] < values[1] < values[2]
    assert 4 < values[2] / values[1] < 5  # det^(−2/3)


def test_willmore_is_that_of_the_sphere_and_free_of_scale():
    errors = [
        float(torrey.willmore(*sphere(size))) / (4 * math.pi) - 1 for size in (1.4, 0.7)
    ]
    assert abs(errors[1]) < 0.01
    assert abs(errors[1]) < abs(errors[0])
    nodes, topology = sphere()
    small = torrey.Nodes(points=nodes.points / 7)
    whole, part = (torrey.willmore(x, topology) for x in (nodes, small))
    assert abs(part / whole - 1) < 1e-12
    stretched = torrey.Nodes(points=nodes.points * torch.tensor([1.0, 1, 2]))
    assert torrey.willmore(stretched, topology) > 1.1 * whole


@pytest.mark.parametrize("name", ["distortion", "willmore", "laplacian", "volume"])
def test_penalties_have_right_gradients(name):
    nodes, topology = torrey.mesh_sphere([3 * um, 5 * um], size=2.2 * um)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(2, *nodes.points.shape, generator=generator) * 0.05 * um
    at = nodes.points + noise[0]
    target = torrey.compartment_volumes(nodes, topology) * 0.9
    f = {
        "distortion": lambda x: torrey.distortion(x, topology, nodes),
        "willmore": lambda x: torrey.willmore(x, topology),
        "laplacian": lambda x: torrey.surface_laplacian(x, topology),
        "volume": lambda x: torrey.volume_change(x, topology, target),
    }[name]
    slope = (grad(f)(torrey.Nodes(points=at)).points * noise[1]).sum()
    h = 1e-4
    up, down = (f(torrey.Nodes(points=at + s * h * noise[1])) for s in (1, -1))
    assert abs(slope) > 0
    assert abs((up - down) / (2 * h) / slope - 1) < 1e-5


def test_noise_on_the_surface_is_rough():
    nodes, topology = sphere()
    generator = torch.Generator().manual_seed(1)
    noise = 0.2 * um * torch.randn(nodes.points.shape, generator=generator)
    rough = torrey.Nodes(points=nodes.points + noise)
    for f in (torrey.surface_laplacian, torrey.willmore):
        assert f(rough, topology) > 1.3 * f(nodes, topology)


def test_relaxing_the_inside_mends_elements_and_keeps_surfaces():
    nodes, topology = torrey.mesh_sphere([3 * um, 5 * um], size=1.3 * um)
    generator = torch.Generator().manual_seed(1)
    noise = 0.15 * um * torch.randn(nodes.points.shape, generator=generator)
    on = torrey.regularise.surfaces(topology).unique()
    noise = noise.index_fill(0, on, 0.0)
    worse = torrey.Nodes(points=nodes.points + noise)
    mended = torrey.relax_inside(worse, topology)
    assert torch.equal(mended.points[on], nodes.points[on])
    before, after = (
        torrey.mesh_quality(x, topology).radius_ratio for x in (worse, mended)
    )
    assert after.min() > before.min()
    assert after.mean() > before.mean()
