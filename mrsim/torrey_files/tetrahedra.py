"""Tetrahedral meshes: ``.msh``, ``.vtk``, ``.vtu``, ``.mesh``, ``.node`` with ``.ele``.

All through meshio (extra ``mesh``).
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrsim._check import require
from mrsim.io import InputError
from mrsim.torrey import Nodes, Topology, make_mesh, orient
from mrsim.torrey_files.points import merge_points
from mrsim.torrey_files.whole import check_numbers, check_whole

_MARKS = ("gmsh:physical", "medit:ref", "tetgen:ref", "compartment", "marker")


def load_mesh(path: str | Path, unit: float) -> tuple[Nodes, Topology]:
    """Read a tetrahedral mesh.

    Compartments come from the markers of tetrahedra, and markers of surfaces from
    those of triangles, where the file has any (gmsh's physical groups, tetgen's and
    medit's references, cell data named ``compartment`` or ``marker``). Points that
    coincide become one, points of no element are left out, and inverted elements are
    turned.

    Args:
        path: the file; of ``.node`` and ``.ele`` either, the other lies beside it.
        unit: of its lengths, from `mrsim.units` (``um`` for micrometres).

    Returns:
        Positions [mm] and connectivity.

    Raises:
        InputError: the file is missing, damaged, or has no tetrahedra, or the mesh is
            faulty; the message names the first bad element.

    >>> import tempfile
    >>> from mrsim import torrey, torrey_files
    >>> from mrsim.units import um
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     mesh = torrey.mesh_box([6 * um, 6 * um, 6 * um], (2, 2, 2))
    ...     path = torrey_files.save_mesh(folder + "/box.vtu", *mesh, um)
    ...     nodes, topology = torrey_files.load_mesh(path, um)
    >>> topology.elements.shape
    torch.Size([48, 4])
    """
    made = read_file(Path(path))
    found = {k: _cells(made, k) for k in ("tetra", "triangle")}
    if not len(found["tetra"][0]):
        kinds = ", ".join(sorted({block.type for block in made.cells})) or "nothing"
        raise InputError(
            f"{path} holds {kinds} but no linear tetrahedra; a closed surface is filled"
            f" by load_surface and fill_surface"
        )
    points = torch.from_numpy(np.asarray(made.points, np.float64)[:, :3] * unit)
    elements, marks = found["tetra"]
    triangles, sides = found["triangle"]
    check_numbers(Path(path), points, elements, triangles)
    points, number = merge_points(points)
    elements = number[elements]
    used, flat = elements.unique(return_inverse=True)
    elements = flat.reshape(-1, 4)
    position = torch.full((len(points),), -1).index_copy(
        0, used, torch.arange(len(used))
    )
    points = points[used]
    marked = sides is not None and len(triangles)
    try:
        return make_mesh(
            points,
            orient(points, elements),
            marks,
            position[number[triangles]] if marked else None,
            sides if marked else None,
        )
    except ValueError as e:
        raise InputError(f"{path}: {e}") from e


def save_mesh(path: str | Path, nodes: Nodes, topology: Topology, unit: float) -> Path:
    """Write a mesh with its compartments and markers.

    Args:
        path: ending in ``.msh``, ``.vtk``, ``.vtu``, ``.mesh`` or ``.ele``.
        nodes: positions [mm].
        topology: connectivity.
        unit: of the lengths in the file.

    Returns:
        The path. Compartments and markers are as in the records, from 0; markers of
        interfaces follow those of the outer surface; gmsh's count from 1.

    Raises:
        InputError: meshio does not write such files, or the mesh is none.

    >>> import tempfile
    >>> from mrsim import torrey, torrey_files
    >>> from mrsim.units import um
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     mesh = torrey.mesh_box([6 * um, 6 * um, 6 * um], (2, 2, 2))
    ...     torrey_files.save_mesh(folder + "/box.vtu", *mesh, um).name
    'box.vtu'
    """
    meshio = require("meshio", "mesh")
    path = Path(path)
    place = topology.point
    facets = torch.cat([place[topology.outer], place[topology.inner[:, 0]]])
    marks = torch.cat([topology.outer_marker, topology.outers + topology.inner_marker])
    cells = [("tetra", place[topology.elements].cpu().numpy())]
    data = [topology.compartment.cpu().numpy()]
    if path.suffix not in {".ele", ".node"}:
        cells.append(("triangle", facets.cpu().numpy()))
        data.append(marks.cpu().numpy())
    names = {".msh": ("gmsh:physical", "gmsh:geometrical"), ".mesh": ("medit:ref",)}
    names[".ele"] = names[".node"] = ("tetgen:ref",)
    chosen = names.get(path.suffix, ("marker",))
    if any(
        x.shape != (len(y), x.shape[-1]) for (_, x), y in zip(cells, data, strict=True)
    ):
        raise InputError(
            f"{path} cannot be written: the topology must have (element, 4) corners,"
            f" (facet, 3) corners of facets, and a number for each of them"
        )
    shift = 1 if path.suffix == ".msh" else 0
    made = meshio.Mesh(
        nodes.points.detach().cpu().double().numpy() / unit,
        cells,
        cell_data={n: [(x + shift).astype(np.int32) for x in data] for n in chosen},
    )
    kind = {".msh": {"file_format": "gmsh22"}}.get(path.suffix, {})
    return write_file(path, made, **kind)


def write_file(path: Path, mesh: Any, **kind: Any) -> Path:
    """Write a mesh by meshio."""
    meshio = require("meshio", "mesh")
    try:
        meshio.write(str(path), mesh, **kind)
    except (meshio.ReadError, meshio.WriteError) as e:
        raise InputError(
            f"{path} cannot be written as a mesh: {e}; give a name that ends in .msh,"
            f" .vtu, .ply, …"
        ) from e
    return path


def read_file(path: Path) -> Any:
    """Read what meshio knows."""
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the path of a mesh")
    meshio = require("meshio", "mesh")
    check_whole(path)
    try:
        with np.errstate(over="ignore"):  # its guess of an .stl file's kind overflows
            return meshio.read(str(path))
    except SystemExit as e:  # meshio's way to say that it does not know the format
        raise InputError(f"{path} is of no format that meshio knows") from e
    except Exception as e:  # it checks little of what it reads
        raise InputError(f"{path} cannot be read as a mesh: {e!r}") from e


def _cells(made: Any, kind: str) -> tuple[Tensor, Tensor | None]:
    """Return the cells of one kind and their markers, if the file has any."""
    blocks = [k for k, block in enumerate(made.cells) if block.type == kind]
    width = {"tetra": 4, "triangle": 3}[kind]
    rows = [np.asarray(made.cells[k].data, np.int64) for k in blocks]
    cells = np.concatenate([np.zeros((0, width), np.int64), *rows])
    name = next((n for n in _MARKS if n in made.cell_data), None)
    if name is None or not blocks:
        return torch.from_numpy(cells), None
    marks = np.concatenate([np.asarray(made.cell_data[name][k]) for k in blocks])
    return torch.from_numpy(cells), torch.from_numpy(marks.reshape(-1).astype(np.int64))
