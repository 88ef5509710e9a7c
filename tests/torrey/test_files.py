"""Files and pictures of meshes: round trips, and what is refused."""

import importlib.util

import pytest
import torch

from mrsim import torrey
from mrsim.io import InputError
from mrsim.units import um

pytest.importorskip("meshio")
from mrsim import plot, torrey_files

TWO = torrey.mesh_sphere([3 * um, 5 * um], size=2.5 * um)
SWC = """# a soma of three points, one dendrite that forks, one axon
1 1 0 0 0 5 -1
2 1 0 5 0 5 1
3 1 0 -5 0 5 1
4 3 6 0 0 1.5 1
5 3 20 0 0 1.2 4
6 3 28 6 0 1.0 5
7 3 28 -6 0 1.0 5
8 2 -6 0 0 1.2 1
9 2 -22 0 0 1.0 8
"""


@pytest.mark.parametrize("ending", [".msh", ".vtk", ".vtu", ".mesh"])
def test_meshes_come_back_with_compartments_and_markers(tmp_path, ending):
    nodes, topology = TWO
    path = torrey_files.save_mesh(tmp_path / f"two{ending}", nodes, topology, unit=um)
    again, same = torrey_files.load_mesh(path, unit=um)
    made = torrey.compartment_volumes(again, same)
    assert torch.allclose(made, torrey.compartment_volumes(nodes, topology), rtol=1e-6)
    assert (same.outers, same.inners) == (1, 1)
    assert same.outer.shape == topology.outer.shape
    assert same.inner.shape == topology.inner.shape


def test_tetgen_files_come_back(tmp_path):
    nodes, topology = TWO
    torrey_files.save_mesh(tmp_path / "two.ele", nodes, topology, unit=um)
    for ending in (".ele", ".node"):
        again, same = torrey_files.load_mesh(tmp_path / f"two{ending}", unit=um)
        assert same.compartments == 2
        made = torrey.compartment_volumes(again, same)
        assert torch.allclose(made, torrey.compartment_volumes(nodes, topology))


def test_inverted_and_repeated_points_are_mended(tmp_path):
    meshio = pytest.importorskip("meshio")
    nodes, topology = TWO
    corners = nodes.points[topology.point[topology.elements]] / um
    cells = torch.arange(4 * len(corners)).reshape(-1, 4)[:, [0, 2, 1, 3]]
    marks = topology.compartment.numpy()
    soup = meshio.Mesh(
        corners.reshape(-1, 3).numpy(), [("tetra", cells.numpy())],
        cell_data={"compartment": [marks]},
    )  # fmt: skip
    soup.write(str(tmp_path / "soup.vtu"))
    again, same = torrey_files.load_mesh(tmp_path / "soup.vtu", unit=um)
    assert again.points.shape == nodes.points.shape
    assert same.inner.shape == topology.inner.shape


def test_a_forgotten_unit_is_warned_of(tmp_path):
    path = torrey_files.save_mesh(tmp_path / "two.vtu", *TWO, unit=um)
    with pytest.warns(UserWarning, match=r"mrsim.units.um"):
        torrey_files.load_mesh(path, unit=1.0)


@pytest.mark.parametrize("ending", [".ply", ".stl", ".off", ".obj"])
def test_surfaces_come_back_closed(tmp_path, ending):
    nodes, topology = TWO
    path = torrey_files.save_surface(tmp_path / f"a{ending}", nodes, topology, unit=um)
    surface = torrey_files.load_surface(path, unit=um)
    torrey_files.surfaces.check_closed(surface)
    assert len(surface.facets) == len(topology.outer)
    assert len(surface.points) == len(topology.outer) // 2 + 2  # Euler
    a, b, c = surface.points[surface.facets].unbind(1)
    enclosed = (a * torch.linalg.cross(b, c)).sum() / 6
    assert abs(enclosed / torrey.volumes(nodes, topology).sum() - 1) < 1e-5


def test_gifti_surfaces_are_read(tmp_path):
    nib = pytest.importorskip("nibabel")
    nodes, topology = TWO
    used, facets = topology.point[topology.outer].unique(return_inverse=True)
    arrays = [
        nib.gifti.GiftiDataArray(
            (nodes.points[used] / um).float().numpy(), intent="NIFTI_INTENT_POINTSET"
        ),
        nib.gifti.GiftiDataArray(
            facets.int().numpy(), intent="NIFTI_INTENT_TRIANGLE", datatype="int32"
        ),
    ]
    path = tmp_path / "a.surf.gii"
    nib.save(nib.gifti.GiftiImage(darrays=arrays), str(path))
    surface = torrey_files.load_surface(path, unit=um)
    assert len(surface.facets) == len(topology.outer)
    (tmp_path / "bad.gii").write_text("<GIFTI>")
    with pytest.raises(InputError, match="cannot be read as a GIFTI"):
        torrey_files.load_surface(tmp_path / "bad.gii", unit=um)


def test_open_surfaces_are_refused(tmp_path):
    path = torrey_files.save_surface(tmp_path / "a.ply", *TWO, unit=um)
    whole = torrey_files.load_surface(path, unit=um)
    holed = torrey_files.Surface(whole.points, whole.facets[1:])
    with pytest.raises(InputError, match=r"surface is open: the edge .*3 such edges"):
        torrey_files.fill_surface(holed, size=2 * um)


@pytest.mark.skipif(
    importlib.util.find_spec("tetgen") is None, reason="tetgen is the user's choice"
)
def test_tetgen_fills_a_surface(tmp_path):
    nodes, topology = TWO
    path = torrey_files.save_surface(tmp_path / "a.ply", nodes, topology, unit=um)
    filled, made = torrey_files.fill_surface(
        torrey_files.load_surface(path, unit=um), size=2 * um
    )
    whole = torrey.volumes(nodes, topology).sum()
    assert abs(torrey.volumes(filled, made).sum() / whole - 1) < 1e-5
    assert float(torrey.mesh_quality(filled, made).radius_ratio.min()) > 0.05


def test_neurons_are_read_meshed_and_labelled(tmp_path):
    path = tmp_path / "cell.swc"
    path.write_text(SWC)
    neuron = torrey_files.load_swc(path)
    assert neuron.kind.tolist() == [1, 3, 3, 3, 3, 2, 2]
    assert float(neuron.capsules.start_radius[1]) == pytest.approx(1.5 * um)
    nodes, topology = torrey.mesh_neuron(neuron.capsules, size=1.5 * um)
    label = torrey_files.label_elements(nodes, topology, neuron)
    assert label.unique().tolist() == [1, 2, 3]
    middle = torrey.corners(nodes, topology).mean(1)
    assert (middle[label == 2][:, 0] < 0).all()
    assert (middle[label == 3][:, 0] > 0).all()
    assert float(middle[label == 1].norm(dim=-1).max()) < 6.5 * um


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 1 0 0 0 5", "line 1.*is no sample"),
        ("1 1 0 0 0 -5 -1", "radius must be positive"),
        ("1 1 0 0 0 5 -1\n2 3 9 0 0 1 7", "sample 2 has the unknown parent 7"),
        ("# nothing", "holds no samples"),
    ],
)
def test_faults_of_swc_files_are_named(tmp_path, text, words):
    path = tmp_path / "cell.swc"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        torrey_files.load_swc(path)


def test_files_that_are_no_mesh_are_named(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        torrey_files.load_mesh(tmp_path / "none.msh", unit=um)
    (tmp_path / "bad.msh").write_text("no mesh")
    with pytest.raises(InputError, match=r"bad\.msh"):
        torrey_files.load_mesh(tmp_path / "bad.msh", unit=um)
    path = torrey_files.save_surface(tmp_path / "a.vtk", *TWO, unit=um)
    with pytest.raises(InputError, match=r"triangle but no linear tetrahedra"):
        torrey_files.load_mesh(path, unit=um)


@pytest.mark.parametrize("ending", [".msh", ".vtk", ".vtu", ".mesh", ".ele"])
@pytest.mark.parametrize("fault", ["occurs twice", "is flat", "shares a face"])
def test_faulty_elements_of_files_are_refused_by_number(tmp_path, ending, fault):
    meshio = pytest.importorskip("meshio")
    points = [[0.0, 0, 0], [9, 0, 0], [0, 9, 0], [0, 0, 9], [9, 9, 9], [12, 12, 12]]
    cells = {
        "occurs twice": [[0, 1, 2, 3], [1, 2, 3, 4], [4, 3, 2, 1]],
        "is flat": [[1, 2, 3, 4], [0, 1, 2, 5]],
        "shares a face": [[0, 1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 5]],
    }[fault]
    if fault == "is flat":
        points[5] = [5, 5, 0]
    where = {".msh": ("gmsh:physical", "gmsh:geometrical"), ".ele": ("tetgen:ref",)}
    marks = [torch.ones(len(cells)).int().numpy()]
    made = meshio.Mesh(
        torch.tensor(points).double().numpy(),
        [("tetra", torch.tensor(cells).numpy())],
        cell_data=dict.fromkeys(where.get(ending, ()), marks),
    )
    path = tmp_path / f"bad{ending}"
    meshio.write(
        str(path), made, **({"file_format": "gmsh22"} if ending == ".msh" else {})
    )
    with pytest.raises(InputError, match=rf"bad\{ending}.*element \d+, .*{fault}"):
        torrey_files.load_mesh(path, unit=um)


@pytest.mark.parametrize("ending", [".msh", ".vtu"])
def test_facets_without_markers_are_named(tmp_path, ending):
    meshio = pytest.importorskip("meshio")
    path = torrey_files.save_mesh(tmp_path / f"two{ending}", *TWO, unit=um)
    made = meshio.read(str(path))
    kept = [("tetra", made.cells[0].data), ("triangle", made.cells[1].data[1:])]
    data = {n: [v[0], v[1][1:]] for n, v in made.cell_data.items()}
    less = meshio.Mesh(made.points, kept, cell_data=data)
    more = {"file_format": "gmsh22"} if ending == ".msh" else {}
    meshio.write(str(path), less, **more)
    with pytest.raises(
        InputError, match=r"element \d+ has an outer facet.*without marker"
    ):
        torrey_files.load_mesh(path, unit=um)


@pytest.mark.parametrize("ending", [".ply", ".stl", ".off", ".obj"])
def test_open_surfaces_of_files_are_refused(tmp_path, ending):
    meshio = pytest.importorskip("meshio")
    path = torrey_files.save_surface(tmp_path / f"a{ending}", *TWO, unit=um)
    points, facets = (x.numpy() for x in torrey_files.load_surface(path, unit=um))
    meshio.Mesh(points / um, [("triangle", facets[1:])]).write(str(path))
    with pytest.raises(InputError, match=r"surface is open: the edge .*3 such edges"):
        torrey_files.fill_surface(torrey_files.load_surface(path, unit=um), 2 * um)


def test_pictures_hold_every_facet():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure()
    space = figure.add_subplot(1, 3, 1, projection="3d")
    plot.mesh(space, *TWO)
    drawn = space.collections[0]
    figure.canvas.draw()
    assert len(drawn.get_facecolor()) == len(TWO[1].outer)
    flat = figure.add_subplot(1, 3, 2)
    torrey_files.draw_quality(flat, *TWO)
    assert sum(p.get_height() for p in flat.patches) == len(TWO[1].elements)
    line = figure.add_subplot(1, 3, 3)
    torrey_files.draw_history(line, torch.tensor([3.0, 1.0]), label="loss")
    assert line.lines[0].get_ydata().tolist() == [3.0, 1.0]
    plt.close(figure)
