"""Pictures of meshes and of fits, drawn into matplotlib axes that the caller made."""

from typing import Any

import numpy as np
from torch import Tensor

from mrsim._check import require
from mrsim.torrey import Nodes, Topology, mesh_quality
from mrsim.units import um

_COLOURS = ("#0060b0", "#e08a00", "#8c8c8c", "#2f9e44", "#ae3ec9")


def draw_mesh(
    axes: Any,
    nodes: Nodes,
    topology: Topology,
    colour: str | None = None,
    alpha: float = 0.9,
    edges: bool = True,
) -> None:
    """Draw the outer surface of a mesh, shaded, a colour for each compartment.

    Args:
        axes: of matplotlib, made with ``projection="3d"``.
        nodes: positions [mm].
        topology: connectivity.
        colour: one for all; ``None``: by compartment.
        alpha: opacity.
        edges: whether edges of triangles are drawn.
    """
    art = require("mpl_toolkits.mplot3d.art3d", "mesh")
    colors = require("matplotlib.colors", "mesh")
    points = nodes.points.detach().cpu().double().numpy() / um
    corners = points[topology.point[topology.outer].cpu().numpy()]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    light = 0.65 + 0.35 * normal @ np.array([-0.4, -0.6, 0.69])
    home = topology.home[topology.outer[:, 0]].cpu().numpy()
    names = [colour or _COLOURS[h % len(_COLOURS)] for h in home]
    base = np.array([colors.to_rgb(n) for n in names])
    shade = np.clip(base * light[:, None], 0, 1)
    axes.add_collection3d(
        art.Poly3DCollection(
            corners,
            facecolors=np.c_[shade, np.full(len(shade), alpha)],
            edgecolors=(0, 0, 0, 0.25 * alpha) if edges else "none",
            linewidths=0.3,
        )
    )
    low, high = corners.reshape(-1, 3).min(0), corners.reshape(-1, 3).max(0)
    limits = [axes.get_xlim(), axes.get_ylim(), axes.get_zlim()]
    if len(axes.collections) > 1:
        low = np.minimum(low, [x[0] for x in limits])
        high = np.maximum(high, [x[1] for x in limits])
    axes.set(
        xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]),
        xlabel="x [µm]", ylabel="y [µm]", zlabel="z [µm]",
    )  # fmt: skip
    axes.set_box_aspect(np.maximum(high - low, 1e-9))


def draw_quality(axes: Any, nodes: Nodes, topology: Topology) -> None:
    """Draw how the radius ratios of elements are spread.

    Args:
        axes: of matplotlib.
        nodes: positions [mm].
        topology: connectivity.
    """
    ratio = mesh_quality(nodes, topology).radius_ratio.detach().cpu().numpy()
    axes.hist(ratio, bins=np.linspace(0, 1, 41), color=_COLOURS[0])
    axes.set(xlabel="radius ratio", ylabel="elements")
    axes.set_title(f"worst {ratio.min():.2f}, mean {ratio.mean():.2f}")


def draw_history(axes: Any, history: Tensor, label: str | None = None) -> None:
    """Draw how a loss fell.

    Args:
        axes: of matplotlib.
        history: (step,) losses.
        label: for a legend.
    """
    axes.semilogy(history.detach().cpu().numpy(), label=label)
    axes.set(xlabel="step", ylabel="loss")
