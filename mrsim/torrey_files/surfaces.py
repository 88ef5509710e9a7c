"""Closed surfaces of triangles: ``.ply``, ``.stl``, ``.off``, ``.obj``, ``.gii``."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mrsim._check import require
from mrsim.io import InputError
from mrsim.torrey import Nodes, Topology, make_mesh, orient
from mrsim.torrey_files.points import merge_points
from mrsim.torrey_files.tetrahedra import read_file, write_file
from mrsim.torrey_files.whole import check_numbers


class Surface(NamedTuple):
    """A surface of triangles."""

    points: Tensor  # (point, 3) [mm]
    facets: Tensor  # (facet, 3) numbers of points


def load_surface(path: str | Path, unit: float) -> Surface:
    """Read a surface of triangles; points that coincide become one.

    Args:
        path: ``.ply``, ``.stl``, ``.off``, ``.obj`` (meshio, extra ``mesh``) or
            ``.gii`` (nibabel).
        unit: of its lengths, from `mrsim.units`.

    Returns:
        The surface.

    Raises:
        InputError: the file is missing, damaged, or has no triangles.

    >>> import tempfile
    >>> from mrsim import torrey, torrey_files
    >>> from mrsim.units import um
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     mesh = torrey.mesh_sphere(5 * um, size=3 * um)
    ...     path = torrey_files.save_surface(folder + "/cell.stl", *mesh, um)
    ...     torrey_files.load_surface(path, um).points.shape
    torch.Size([42, 3])
    """
    path = Path(path)
    if path.suffix == ".gii":
        points, facets = _gifti(path)
    else:
        made = read_file(path)
        blocks = [b.data for b in made.cells if b.type == "triangle"]
        points, facets = made.points, np.concatenate(blocks) if blocks else np.zeros(0)
    if not len(facets):
        raise InputError(f"{path} holds no triangles")
    at = torch.from_numpy(np.asarray(points, np.float64)[:, :3] * unit)
    corners = torch.from_numpy(np.asarray(facets).astype(np.int64))
    check_numbers(path, at, corners)
    merged, number = merge_points(at)
    triangles = number[corners]
    used, flat = triangles.unique(return_inverse=True)
    return Surface(merged[used], flat.reshape(-1, 3))


def save_surface(
    path: str | Path, nodes: Nodes, topology: Topology, unit: float
) -> Path:
    """Write the outer surface of a mesh.

    Args:
        path: ``.ply``, ``.stl``, ``.off`` or ``.obj``.
        nodes: positions [mm].
        topology: connectivity.
        unit: of the lengths in the file.

    Returns:
        The path.

    Raises:
        InputError: meshio does not write such files.

    >>> import tempfile
    >>> from mrsim import torrey, torrey_files
    >>> from mrsim.units import um
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     mesh = torrey.mesh_sphere(5 * um, size=3 * um)
    ...     torrey_files.save_surface(folder + "/cell.stl", *mesh, um).name
    'cell.stl'
    """
    meshio = require("meshio", "mesh")
    used, flat = topology.point[topology.outer].unique(return_inverse=True)
    points = nodes.points.detach().cpu().double().numpy()[used.cpu().numpy()] / unit
    made = meshio.Mesh(points, [("triangle", flat.reshape(-1, 3).cpu().numpy())])
    return write_file(Path(path), made)


def _gifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the path of a surface")
    nib = require("nibabel", "mesh")
    try:
        made = nib.load(str(path))
        points = made.agg_data("NIFTI_INTENT_POINTSET")
        return np.asarray(points), np.asarray(made.agg_data("NIFTI_INTENT_TRIANGLE"))
    except Exception as e:  # nibabel lets its XML parser's errors through
        raise InputError(f"{path} cannot be read as a GIFTI surface: {e!r}") from e


def check_closed(surface: Surface) -> None:
    """Refuse a surface with holes or seams, with the first edge that is open.

    Raises:
        InputError: an edge does not belong to exactly two triangles.
    """
    start, stop = surface.facets, surface.facets.roll(-1, 1)
    edges = torch.stack([start, stop], -1).reshape(-1, 2).sort(-1).values
    rows, times = edges.unique(dim=0, return_counts=True)
    bad = times != 2
    if bad.any():
        k = int(bad.nonzero()[0, 0])
        kind = "open" if int(times[k]) == 1 else "not simple"
        raise InputError(
            f"the surface is {kind}: the edge of points {rows[k].tolist()} belongs to"
            f" {int(times[k])} triangle(s), not two ({int(bad.sum())} such edges);"
            f" close holes first, for example with trimesh.repair.fill_holes"
        )


def fill_surface(surface: Surface, size: float) -> tuple[Nodes, Topology]:
    """Fill a closed surface with tetrahedra by tetgen.

    Needs the package ``tetgen`` (extra ``tetgen``), whose core is under the AGPL:
    whether that suits is the user's choice; nothing else here needs it.

    Args:
        surface: closed.
        size: wanted length of edges [mm].

    Returns:
        Positions and connectivity, one compartment.

    Raises:
        InputError: the surface is open or crosses itself, or the volume is one that no
            cell has.

    >>> import tempfile
    >>> from mrsim import torrey, torrey_files
    >>> from mrsim.units import um
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     mesh = torrey.mesh_sphere(5 * um, size=3 * um)
    ...     path = torrey_files.save_surface(folder + "/cell.stl", *mesh, um)
    ...     cell = torrey_files.load_surface(path, um)
    >>> nodes, topology = torrey_files.fill_surface(cell, 2 * um)  # doctest: +SKIP
    """
    check_closed(surface)
    tetgen = require("tetgen", "tetgen")
    scale = float((surface.points.amax(0) - surface.points.amin(0)).amax())
    vertices = (surface.points / scale).cpu().numpy()
    largest = (size / scale) ** 3 / 6 / 2**0.5
    made = tetgen.TetGen(vertices, surface.facets.cpu().numpy().astype(np.int32))
    try:
        points, elements, *_ = made.tetrahedralize(
            plc=True, quality=True, minratio=1.4, fixedvolume=True, maxvolume=largest
        )
    except RuntimeError as e:
        raise InputError(f"tetgen cannot fill the surface: {e}") from e
    at = torch.from_numpy(np.asarray(points, np.float64)) * scale
    tetra = torch.from_numpy(np.asarray(elements).astype(np.int64))
    return make_mesh(at, orient(at, tetra))
