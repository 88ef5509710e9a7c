"""Meshes: what is refused, how degrees of freedom are numbered, and units."""

import pickle

import numpy as np
import pytest
import torch
from torrey.fe_data import mesh

from mrsim import torrey
from mrsim.tree import tree_leaves, tree_map
from mrsim.units import um

CORNERS = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]) * um
PAIR = [[0, 1, 2, 3], [1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("elements", "compartment", "words"),
    [
        ([[0, 1, 2, 3], [1, 3, 2, 4]], None, "element 1, .*inverted.*torrey.orient"),
        ([[0, 1, 2, 3], [3, 2, 0, 1]], None, "element 0, .*occurs twice"),
        ([[0, 1, 2, 3], [1, 2, 2, 4]], None, "element 1, .*a point twice"),
        ([[0, 1, 2, 3], [1, 2, 3, 5]], None, "element 1, .*outside 0 … 4"),
        (PAIR, [0], "element 1 is the first without its partner"),
        ([], None, "elements must have shape"),
    ],
)
def test_faults_of_elements_are_named(elements, compartment, words):
    with pytest.raises(ValueError, match=words):
        torrey.make_mesh(CORNERS, torch.tensor(elements).long(), compartment)


def test_flat_elements_are_refused():
    points = torch.cat([CORNERS[:3], CORNERS[:3].mean(0, keepdim=True)])
    with pytest.raises(ValueError, match=r"element 0, .*flat"):
        torrey.make_mesh(points, [[0, 1, 2, 3]])


def test_three_elements_on_a_face_are_refused():
    points = torch.cat([CORNERS, 2 * CORNERS[4:]])
    with pytest.raises(ValueError, match="shares a face with two others"):
        torrey.make_mesh(points, [[0, 1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 5]])


def test_overlapping_elements_are_refused():
    points = torch.cat([CORNERS[:4], CORNERS[:1] - 1e-4])
    with pytest.raises(ValueError, match=r"element 1, .*overlap"):
        torrey.make_mesh(points, [[0, 1, 2, 3], [4, 1, 2, 3]])


def test_missing_and_wrong_markers_are_named():
    outer = [[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 4], [1, 3, 4], [2, 3, 4]]
    with pytest.raises(
        ValueError, match=r"element 0 has an interface facet, .*1, 2, 3"
    ):
        torrey.make_mesh(CORNERS, PAIR, [0, 1], outer, [1] * 6)
    with pytest.raises(ValueError, match=r"element 1 has an outer facet, .*2, 3, 4"):
        torrey.make_mesh(CORNERS, PAIR, [0, 1], [*outer[:5], [1, 2, 3]], [1] * 6)
    with pytest.raises(ValueError, match=r"facet 6, .*neither on the outer surface"):
        torrey.make_mesh(CORNERS, PAIR, [0, 0], [*outer, [1, 2, 3]], [1] * 7)
    with pytest.raises(ValueError, match=r"facet 0, .*listed twice"):
        torrey.make_mesh(CORNERS, PAIR, [0, 0], [*outer, [2, 1, 0]], [1] * 7)
    with pytest.raises(ValueError, match="without facet_marker"):
        torrey.make_mesh(CORNERS, PAIR, [0, 1], outer)
    with pytest.raises(ValueError, match="6 facets came with 5 markers"):
        torrey.make_mesh(CORNERS, PAIR, [0, 0], outer, [1] * 5)


def test_types_are_taught():
    with pytest.raises(TypeError, match="elements must hold integers"):
        torrey.make_mesh(CORNERS, torch.tensor(PAIR).double())
    with pytest.raises(ValueError, match=r"points must have shape \(point, 3\)"):
        torrey.make_mesh(CORNERS[:, :2], PAIR)
    bad = CORNERS.index_fill(0, torch.tensor([2]), torch.nan)
    with pytest.raises(ValueError, match="point 2 is not finite"):
        torrey.make_mesh(bad, PAIR)


def test_a_slip_of_units_is_warned_of():
    with pytest.warns(UserWarning, match=r"more than any cell.*mrsim.units.um"):
        torrey.make_mesh(CORNERS / um, PAIR)
    with pytest.warns(UserWarning, match=r"membrane is thick.*mrsim.units.m"):
        torrey.make_mesh(CORNERS * 1e-3, PAIR)


def test_interface_points_have_one_dof_a_side_and_one_position():
    _, topology = torrey.make_mesh(CORNERS, PAIR, [30, 10], None, None)
    assert topology.compartment.tolist() == [1, 0]
    assert topology.point.tolist() == [1, 2, 3, 4, 0, 1, 2, 3]
    assert topology.home.tolist() == [0] * 4 + [1] * 4
    assert (topology.compartments, topology.outers, topology.inners) == (2, 2, 1)
    both = topology.point[topology.inner]
    assert torch.equal(both[:, 0], both[:, 1])
    assert topology.home[topology.inner].tolist() == [[[0] * 3, [1] * 3]]
    assert sorted(topology.outer_marker.tolist()) == [0, 0, 0, 1, 1, 1]


def test_outer_facets_point_outwards_and_enclose_the_volume():
    nodes, topology = torrey.mesh_sphere([3e-3, 5e-3], size=2e-3)
    a, b, c = nodes.points[topology.point[topology.outer]].unbind(1)
    enclosed = (a * torch.linalg.cross(b, c)).sum() / 6
    whole = torrey.volumes(nodes, topology).sum()
    assert abs(enclosed / whole - 1) < 1e-12
    a, b, c = nodes.points[topology.point[topology.inner[:, 0]]].unbind(1)
    inside = torrey.compartment_volumes(nodes, topology)[0]
    assert abs((a * torch.linalg.cross(b, c)).sum() / 6 / inside - 1) < 1e-12


def test_golden_meshes_are_numbered_as_documented(reference):
    found = sorted((reference / "torrey").glob("fe_*.npz"))
    assert found
    for path in found:
        with np.load(path) as file:
            data = {k: file[k] for k in file.files}
        nodes, topology = mesh(data)
        made = torrey.compartment_volumes(nodes, topology) / um**3
        assert torch.allclose(made, torch.as_tensor(data["volumes"]), rtol=1e-12)
        back = topology.point[topology.elements]
        assert torch.equal(back, torch.as_tensor(data["elements"]).long())
        keys = topology.home * len(nodes.points) + topology.point
        assert (keys.diff() > 0).all()


def test_positions_have_derivatives_one_by_one_and_in_a_batch():
    nodes, topology = torrey.make_mesh(CORNERS, PAIR, [0, 1])
    total = lambda x: torrey.volumes(x, topology).square().sum() * 1e18  # noqa: E731
    slope = torch.func.grad(total)(nodes).points
    step = 1e-6 * um
    for k in (0, 4, 14):
        move = torch.zeros(15).index_fill(0, torch.tensor(k), step).reshape(5, 3)
        up, down = (total(torrey.Nodes(points=CORNERS + s * move)) for s in (1, -1))
        assert abs((up - down) / (2 * step) / slope.flatten()[k] - 1) < 1e-6
    batch = tree_map(lambda x: torch.stack([x, 1.1 * x]), nodes)
    many = torch.func.vmap(torch.func.grad(total))(batch).points
    assert torch.allclose(many[0], slope)


def test_records_survive_pickle_and_both_registries():
    made = torrey.make_mesh(CORNERS, PAIR, [0, 1])
    again = pickle.loads(pickle.dumps(made))
    assert all(map(torch.equal, tree_leaves(made), tree_leaves(again)))
    assert again[1].inners == 1


def test_water_takes_one_value_or_one_for_each():
    _, topology = torrey.mesh_sphere([3e-3, 5e-3], size=2e-3)
    from mrsim.torrey.water import spread

    full = spread("x", torrey.Water(D=2e-3, kappa=1e-5, T2=[0.04, 0.08]), topology)
    assert full.D.shape == (2, 3, 3)
    assert full.kappa is not None
    assert full.kappa.shape == (1,)
    assert full.rho is None
    tensor = torch.diag(torch.tensor([1e-3, 2e-3, 3e-3]))
    assert torch.equal(spread("x", torrey.Water(D=tensor), topology).D[1], tensor)
    with pytest.raises(ValueError, match=r"Water.D must have shape .*\(2,\)"):
        spread("x", torrey.Water(D=[2e-3] * 3), topology)
    with pytest.raises(ValueError, match=r"Water.kappa must have shape .*\(1,\)"):
        spread("x", torrey.Water(D=2e-3, kappa=[1e-5, 1e-5]), topology)


def test_outside_in_is_oriented():
    turned = torrey.orient(CORNERS, [[0, 2, 1, 3], [1, 2, 3, 4]])
    assert torrey.make_mesh(CORNERS, turned)[1].compartments == 1
