"""The surface of a mesh: shaded, and coloured by compartment or by a field."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from mrsim._check import require
from mrsim.plot.page import write_page
from mrsim.torrey import Nodes, Topology
from mrsim.units import um

_COLOURS = ("#0060b0", "#e08a00", "#8c8c8c", "#2f9e44", "#ae3ec9")
_LIGHT = np.array([-0.4, -0.6, 0.69])


class _Surface(NamedTuple):
    corners: np.ndarray  # (facet, 3, xyz) [µm]
    home: np.ndarray  # (facet,) compartment
    values: np.ndarray | None  # (facet, 3)


def mesh(
    axes: Any,
    nodes: Nodes,
    topology: Topology,
    values: Tensor | None = None,
    colour: str | None = None,
    alpha: float = 0.9,
    edges: bool = True,
    cmap: str = "viridis",
    limits: tuple[float, float] | None = None,
) -> Any:
    """Draw the outer surface of a mesh, shaded, in µm.

    Args:
        axes: of matplotlib, made with ``projection="3d"``.
        nodes: positions [mm].
        topology: connectivity.
        values: (point,) or (dof,) field that colours the surface, such as a Laplace
            mode or the magnetisation; ``None``: a colour for each compartment.
        colour: one for the whole surface.
        alpha: opacity.
        edges: whether edges of triangles are drawn.
        cmap: colour map of the field.
        limits: of the field's colours; its extremes by default.

    Returns:
        The surface, for a colour bar if it shows a field.

    Raises:
        ValueError: the field does not have one value for each point or dof.

    >>> from matplotlib.figure import Figure
    >>> from mrsim import plot, torrey
    >>> nodes, topology = torrey.mesh_sphere(5e-3, size=4e-3)
    >>> space = Figure().add_subplot(projection="3d")
    >>> surface = plot.mesh(space, nodes, topology, nodes.points[:, 2])
    >>> space.get_zlabel()
    'z [µm]'
    """
    art = require("mpl_toolkits.mplot3d.art3d", "plot")
    cm = require("matplotlib.cm", "plot")
    colors = require("matplotlib.colors", "plot")
    corners, home, given = _surface(nodes, topology, values)
    names = [colour or _COLOURS[h % len(_COLOURS)] for h in home]
    base = np.array([colors.to_rgb(name) for name in names])
    shown = None
    if given is not None:
        low, high = limits or (float(given.min()), float(given.max()))
        shown = cm.ScalarMappable(colors.Normalize(low, high), cmap)
        shown.set_array(given.mean(1))
        base = shown.to_rgba(given.mean(1))[:, :3]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    shade = np.clip(base * (0.65 + 0.35 * normal @ _LIGHT)[:, None], 0, 1)
    drawn = art.Poly3DCollection(
        corners,
        facecolors=np.c_[shade, np.full(len(shade), alpha)],
        edgecolors=(0, 0, 0, 0.25 * alpha) if edges else "none",
        linewidths=0.3,
    )
    axes.add_collection3d(drawn)
    fit(axes, corners.reshape(-1, 3), "µm")
    return shown or drawn


def mesh_html(
    path: Path | str,
    nodes: Nodes,
    topology: Topology,
    values: Tensor | None = None,
    title: str = "",
    alpha: float = 1.0,
    cmap: str = "viridis",
) -> Path:
    """Write the outer surface of a mesh as a page to turn and zoom (extra ``html``).

    The page is one file that needs no network.

    Args:
        path: of the page.
        nodes: positions [mm].
        topology: connectivity.
        values: (point,) or (dof,) field that colours the surface; ``None``: a colour
            for each compartment.
        title: above the mesh.
        alpha: opacity.
        cmap: colour map of the field, one of plotly's.

    Returns:
        The file.

    Raises:
        ValueError: the field does not have one value for each point or dof.

    >>> import tempfile
    >>> from mrsim import plot, torrey
    >>> mesh = torrey.mesh_sphere(5e-3, size=4e-3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     plot.mesh_html(folder + "/sphere.html", *mesh, title="a cell").name
    'sphere.html'
    """
    graph = require("plotly.graph_objects", "html")
    corners, home, given = _surface(nodes, topology, values)
    x, y, z = corners.reshape(-1, 3).T.astype(np.float32)
    i, j, k = np.arange(len(x), dtype=np.int32).reshape(-1, 3).T
    look: dict[str, Any] = {"facecolor": [_COLOURS[h % len(_COLOURS)] for h in home]}
    if given is not None:
        low, high = float(given.min()), float(given.max())
        look = {"intensity": given.ravel(), "cmin": low, "cmax": high}
        look |= {"colorscale": cmap}
    look |= {"lighting": {"ambient": 0.6, "diffuse": 0.6}}
    surface = graph.Mesh3d(
        x=x, y=y, z=z, i=i, j=j, k=k, opacity=alpha, flatshading=given is None, **look
    )
    return write_page(Path(path), surface, title, "µm")


def fit(axes: Any, points: np.ndarray, unit: str) -> None:
    """Make room for points in 3-D axes, beside what they show already.

    Args:
        axes: with ``projection="3d"``; what is new is their last collection.
        points: (point, 3) of what is new.
        unit: of length.
    """
    low, high = points.min(0), points.max(0)
    room = 0.02 * max(float((high - low).max()), 1e-9)
    low, high = low - room, high + room
    limits = [axes.get_xlim(), axes.get_ylim(), axes.get_zlim()]
    if len(axes.collections) > 1:
        low = np.minimum(low, [x[0] for x in limits])
        high = np.maximum(high, [x[1] for x in limits])
    axes.set(
        xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]),
        xlabel=f"x [{unit}]", ylabel=f"y [{unit}]", zlabel=f"z [{unit}]",
    )  # fmt: skip
    axes.set_box_aspect(high - low)


def _surface(nodes: Nodes, topology: Topology, values: Tensor | None) -> _Surface:
    outer = topology.outer.cpu().numpy()
    owner = topology.point.cpu().numpy()
    points = nodes.points.detach().cpu().double().numpy() / um
    home = topology.home[topology.outer[:, 0]].cpu().numpy()
    if values is None:
        return _Surface(points[owner[outer]], home, None)
    field = values.detach().cpu().double().numpy()
    if field.shape == (len(points),):
        field = field[owner]
    if field.shape != (len(owner),):
        raise ValueError(
            f"plot.mesh: values must have shape ({len(points)},), one for each point,"
            f" or ({len(owner)},), one for each dof, got {field.shape}"
        )
    return _Surface(points[owner[outer]], home, field[outer])
