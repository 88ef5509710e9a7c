"""Streamlines in 3-D: as a picture, and as a page to turn and zoom."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from mrsim._check import require
from mrsim.plot._mesh import fit
from mrsim.plot.page import write_page
from mrsim.tract import Tracks

_PLANES = {"xy": (0, 1), "xz": (0, 2), "yz": (1, 2)}


class _Bundle(NamedTuple):
    points: np.ndarray  # (vertex, xyz) [mm]
    first: np.ndarray  # (edge,) vertex at its start; the next is at its stop
    colour: np.ndarray  # (vertex, rgb) by direction, or (vertex,) values


def streamlines(
    axes: Any,
    tracks: Tracks,
    values: Tensor | None = None,
    cmap: str = "viridis",
    width: float = 0.8,
    limits: tuple[float, float] | None = None,
    plane: str | None = None,
) -> Any:
    """Draw streamlines, coloured by their direction or by values.

    Red runs along x, green along y, blue along z (Pajevic & Pierpaoli 1999).

    Args:
        axes: of matplotlib, made with ``projection="3d"``, or flat ones with `plane`.
        tracks: the bundle; a batch of ``vmap(tract.stream, …)`` through
            `tract.ragged`.
        values: (vertex,) or (track,) that colour the lines; ``None``: by direction.
        cmap: colour map of the values.
        width: of lines [points].
        limits: of the values' colours; their extremes by default.
        plane: ``"xy"``, ``"xz"`` or ``"yz"``: project onto it.

    Returns:
        The lines, for a colour bar if they show values.

    Raises:
        ValueError: there is not one value for each vertex or track, or no such plane.

    >>> import torch
    >>> from matplotlib.figure import Figure
    >>> from mrsim import plot, tract
    >>> one = torch.tensor([1.0, 0, 0, 1.0, 0, 0]).expand(5, 5, 5, 6)  # along z
    >>> fod = tract.Field(coefficients=one, affine=torch.eye(4))
    >>> seeds = torch.tensor([[2.0, 2, 2], [3.0, 2, 2]])
    >>> found = tract.tracks(seeds, fod, tract.options(fod, step=0.5, minlength=0.0))
    >>> space = Figure().add_subplot(projection="3d")
    >>> plot.streamlines(space, found).get_color()[0].tolist()  # blue
    [0.0, 0.0, 1.0, 1.0]
    """
    if plane is not None and plane not in _PLANES:
        raise ValueError(
            f'plot.streamlines: plane must be "xy", "xz", "yz" or None, got {plane!r}'
        )
    bundle = _bundle(tracks, values)
    points, first = bundle.points, bundle.first
    style: dict[str, Any] = {"linewidths": width, "capstyle": "round"}
    if values is None:
        style["colors"] = bundle.colour[first]
    else:
        ends = limits or (float(bundle.colour.min()), float(bundle.colour.max()))
        middle = (bundle.colour[first] + bundle.colour[first + 1]) / 2
        style |= {"array": middle, "cmap": cmap, "clim": ends}
    if plane is None:
        art = require("mpl_toolkits.mplot3d.art3d", "plot")
        edges = np.stack([points[first], points[first + 1]], 1)
        drawn = axes.add_collection3d(art.Line3DCollection(edges, **style))
        fit(axes, points, "mm")
        return drawn
    collections = require("matplotlib.collections", "plot")
    flat = points[:, _PLANES[plane]]
    edges = np.stack([flat[first], flat[first + 1]], 1)
    drawn = axes.add_collection(collections.LineCollection(edges, **style))
    axes.autoscale_view()
    axes.set(xlabel=f"{plane[0]} [mm]", ylabel=f"{plane[1]} [mm]", aspect="equal")
    return drawn


def streamlines_html(
    path: Path | str,
    tracks: Tracks,
    values: Tensor | None = None,
    title: str = "",
    cmap: str = "viridis",
    width: float = 3.0,
) -> Path:
    """Write streamlines as a page to turn and zoom (extra ``html``).

    The page is one file that needs no network.

    Args:
        path: of the page.
        tracks: the bundle.
        values: (vertex,) or (track,) that colour the lines; ``None``: by direction.
        title: above the lines.
        cmap: colour map of the values, one of plotly's.
        width: of lines [pixels].

    Returns:
        The file.

    Raises:
        ValueError: there is not one value for each vertex or track.

    >>> import tempfile, torch
    >>> from mrsim import plot, tract
    >>> one = torch.tensor([1.0, 0, 0, 1.0, 0, 0]).expand(5, 5, 5, 6)  # along z
    >>> fod = tract.Field(coefficients=one, affine=torch.eye(4))
    >>> seeds = torch.tensor([[2.0, 2, 2], [3.0, 2, 2]])
    >>> found = tract.tracks(seeds, fod, tract.options(fod, step=0.5, minlength=0.0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     plot.streamlines_html(folder + "/bundle.html", found).name
    'bundle.html'
    """
    graph = require("plotly.graph_objects", "html")
    bundle = _bundle(tracks, values)
    breaks = tracks.offsets[1:-1].cpu().numpy()
    gap = np.insert(bundle.points.astype(np.float32), breaks, np.nan, axis=0)
    colour: Any = np.insert(bundle.colour, breaks, 0, axis=0)
    look: dict[str, Any] = {"width": width}
    if values is None:
        colour = [f"rgb({r},{g},{b})" for r, g, b in (255 * colour).astype(int)]
    else:
        ends = float(bundle.colour.min()), float(bundle.colour.max())
        look |= {"colorscale": cmap, "cmin": ends[0], "cmax": ends[1]}
        look |= {"showscale": True}
    lines = graph.Scatter3d(
        x=gap[:, 0], y=gap[:, 1], z=gap[:, 2], mode="lines", hoverinfo="skip",
        line={"color": colour, **look},
    )  # fmt: skip
    return write_page(Path(path), lines, title, "mm")


def _bundle(tracks: Tracks, values: Tensor | None) -> _Bundle:
    points = tracks.points.detach().cpu().double().numpy()
    length = tracks.offsets.diff().cpu().numpy()
    if not len(points):
        raise ValueError("plot.streamlines: there are no vertices to draw")
    owner = np.repeat(np.arange(len(length)), length)
    first = np.flatnonzero(owner[1:] == owner[:-1])
    if values is None:
        edge = points[first + 1] - points[first]
        colour = np.zeros_like(points)
        np.add.at(colour, first, np.abs(edge))
        np.add.at(colour, first + 1, np.abs(edge))
        size = np.linalg.norm(colour, axis=1, keepdims=True)
        return _Bundle(points, first, colour / np.maximum(size, 1e-30))
    shown = values.detach().cpu().double().numpy()
    if shown.shape == (len(length),):
        shown = shown[owner]
    if shown.shape != (len(points),):
        raise ValueError(
            f"plot.streamlines: values must have shape ({len(points)},), one for each"
            f" vertex, or ({len(length)},), one for each track, got {shown.shape}"
        )
    return _Bundle(points, first, shown)
