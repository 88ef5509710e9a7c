"""Built-in meshes: exact volumes, good elements, conforming interfaces, markers."""

import math

import pytest
import torch

from mrsim import torrey
from mrsim.torrey.regularise import surfaces
from mrsim.units import deg, um

LAYERED = {
    "sphere": lambda: torrey.mesh_sphere([3 * um, 5 * um], size=1.3 * um),
    "thin shell": lambda: torrey.mesh_sphere([1 * um, 4 * um, 5 * um], size=1.2 * um),
    "ellipsoid": lambda: torrey.mesh_ellipsoid(
        torch.tensor([3.0, 4, 5]) * um, 1.5 * um, [0.6, 1.0]
    ),
    "cylinder": lambda: torrey.mesh_cylinder([3 * um, 5 * um], 6 * um, size=1.3 * um),
    "box": lambda: torrey.mesh_box([6 * um, 4 * um, 2 * um], (3, 2, 1)),
    "slab": lambda: torrey.mesh_slab([-4 * um, 0.0, 3 * um], size=1 * um),
    "axon": lambda: torrey.mesh_axon(axon_shape(), size=1 * um),
}
VOLUMES = {
    "sphere": [4 / 3 * math.pi * r for r in (27, 98)],
    "thin shell": [4 / 3 * math.pi * r for r in (1, 63, 61)],
    "ellipsoid": [80 * math.pi * s for s in (0.6**3, 1 - 0.6**3)],
    "cylinder": [math.pi * 6 * r for r in (9, 16)],
    "box": [48.0],
    "slab": [4.0, 3.0],
}


def axon_shape() -> torrey.Axon:
    return torrey.Axon(
        radii=torch.tensor([2 * um, 3 * um]),
        length=12 * um,
        bead=0.2,
        bead_length=6 * um,
        flat=0.1,
        twist=1 / (20 * um),
        bend=1 / (25 * um),
    )


@pytest.mark.parametrize("name", VOLUMES)
def test_volumes_are_those_of_the_true_shape(name):
    nodes, topology = LAYERED[name]()
    made = torrey.compartment_volumes(nodes, topology) / um**3
    assert torch.allclose(made, torch.tensor(VOLUMES[name]), rtol=1e-9)


@pytest.mark.parametrize("name", LAYERED)
def test_elements_are_good_and_the_same_every_time(name):
    nodes, topology = LAYERED[name]()
    again, _ = LAYERED[name]()
    assert torch.equal(nodes.points, again.points)
    assert nodes.points.dtype == torch.float64
    found = torrey.mesh_quality(nodes, topology)
    assert float(found.volume.min()) > 0
    assert float(found.smallest_angle.min()) > 14 * deg
    assert float(found.largest_angle.max()) < 155 * deg


@pytest.mark.parametrize("name", LAYERED)
def test_surfaces_are_closed(name):
    _, topology = LAYERED[name]()
    for facets in (topology.outer, topology.inner[:, 0]):
        points = topology.point[facets]
        edges = torch.stack([points, points.roll(-1, 1)], -1).reshape(-1, 2)
        rim = edges.sort(-1).values.unique(dim=0, return_counts=True)[1]
        # interfaces of a slab and of a cylinder end at the outer surface
        assert set(rim.tolist()) <= ({2} if facets is topology.outer else {1, 2})


def test_markers_tell_walls_apart():
    nodes, topology = LAYERED["cylinder"]()
    z = nodes.points[topology.point[topology.outer]][..., 2]
    ends = (z.amax(1) - z.amin(1)) < 1e-9
    assert torch.equal(ends.long(), topology.outer_marker)
    nodes, topology = LAYERED["slab"]()
    assert (topology.outers, topology.inners) == (3, 1)
    x = nodes.points[topology.point[topology.outer]][..., 0]
    assert torch.allclose(x[topology.outer_marker == 0], torch.tensor(-4 * um))
    assert torch.allclose(x[topology.outer_marker == 1], torch.tensor(3 * um))
    at = nodes.points[topology.point[topology.inner]][..., 0]
    assert float(at.abs().max()) < 1e-15
    _, topology = LAYERED["box"]()
    assert topology.outer_marker.bincount().tolist() == [4, 4, 6, 6, 12, 12]


def test_graded_spheres_crowd_towards_the_surface():
    even, _ = torrey.mesh_sphere(5 * um, size=1 * um)
    graded, topology = torrey.mesh_sphere(5 * um, size=1 * um, grading=2.0)
    levels = [
        (x.points.norm(dim=-1) / um).round(decimals=6).unique() for x in (even, graded)
    ]
    assert len(levels[0]) == len(levels[1])
    outermost = [float(x.diff()[-1]) for x in levels]
    assert outermost[1] < 0.5 * outermost[0]
    assert float(torrey.volumes(graded, topology).min()) > 0


def test_interfaces_lie_on_their_spheres():
    nodes, topology = LAYERED["thin shell"]()
    at = nodes.points[topology.point[topology.inner[:, 0]]].norm(dim=-1)
    for k, radius in enumerate((1 * um, 4 * um)):
        r = at[topology.inner_marker == k]
        assert float(r.std()) < 1e-12
        assert 1 <= float(r.mean()) / radius < 1.25  # blown up to the sphere's volume


def test_faceted_volume_converges_at_second_order():
    def deficit(n):
        chart, topology = torrey.sphere_chart((n,))
        unit = chart.across / chart.across.norm(dim=-1, keepdim=True).clamp_min(1e-9)
        points = unit * chart.weight * 5 * um
        volume = torrey.volumes(torrey.Nodes(points=points), topology).sum()
        return 1 - float(volume) / (4 / 3 * math.pi * 125 * um**3)

    assert 3.5 < deficit(3) / deficit(6) < 4.2


def test_neuron_fills_its_capsules_with_good_elements():
    capsules = torrey.example_neuron(depth=1)
    nodes, topology = torrey.mesh_neuron(capsules, size=1.6 * um)
    found = torrey.mesh_quality(nodes, topology)
    assert float(found.smallest_angle.min()) > 10 * deg
    assert float(found.largest_angle.max()) < 165 * deg
    blend = 0.25 * float(capsules.stop_radius.min())
    on = nodes.points[surfaces(topology).unique()]
    away = torrey.neuron_distance(capsules, on, blend)
    assert float(away.abs().max()) < 1e-3 * um
    # against the share of random points that lie inside
    low, high = nodes.points.amin(0), nodes.points.amax(0)
    generator = torch.Generator().manual_seed(0)
    cast = low + (high - low) * torch.rand(200_000, 3, generator=generator)
    share = (torrey.neuron_distance(capsules, cast, blend) < 0).double().mean()
    volume = torrey.volumes(nodes, topology).sum()
    ratio = float(volume / (share * (high - low).prod()))
    assert 0.83 < ratio < 1.0  # chords of thin branches


def test_neuron_refuses_a_size_that_loses_branches():
    with pytest.raises(ValueError, match="size must be positive and at most"):
        torrey.mesh_neuron(torrey.example_neuron(depth=1), size=5 * um)


def test_one_ball_is_a_sphere():
    origin = torch.zeros(1, 3)
    ball = torrey.Capsules(
        start=origin, stop=origin, start_radius=[5 * um], stop_radius=[5 * um]
    )
    nodes, topology = torrey.mesh_neuron(ball, size=1 * um)
    volume = torrey.volumes(nodes, topology).sum()
    assert abs(volume / (4 / 3 * math.pi * 125 * um**3) - 1) < 0.02


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: torrey.sphere_chart((1,)),
            "at least one level a layer and two in all",
        ),
        (lambda: torrey.cylinder_chart((2,), 0), "slices be at least 1"),
        (lambda: torrey.mesh_sphere([5e-3, 3e-3], 1e-3), "positive and ascend"),
        (lambda: torrey.mesh_box([1e-3] * 2, (1, 1)), "must be three each"),
    ],
)
def test_impossible_shapes_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_fold_is_refused():
    with pytest.raises(ValueError, match=r"element \d+, .*inverted"):
        torrey.mesh_axon(torrey.Axon(radii=3e-3, length=2e-2, bend=1e3), size=1.5e-3)


def test_boxes_and_slabs_have_positive_sides() -> None:
    for sides in ([-1e-3, 1e-3, 1e-3], [0.0, 1e-3, 1e-3], [float("nan"), 1e-3, 1e-3]):
        with pytest.raises(ValueError, match="sides must be positive"):
            torrey.mesh_box(sides, (1, 1, 1))
    with pytest.raises(ValueError, match="width must be positive"):
        torrey.mesh_slab([0.0, 1e-3], size=1e-3, width=-1e-3)
