"""Pictures of a mesh's quality and of fits, drawn into axes of matplotlib."""

from typing import Any

import numpy as np
from torch import Tensor

from mrsim.torrey import Nodes, Topology, mesh_quality


def draw_quality(axes: Any, nodes: Nodes, topology: Topology) -> None:
    """Draw how the radius ratios of elements are spread.

    Args:
        axes: of matplotlib.
        nodes: positions [mm].
        topology: connectivity.
    """
    ratio = mesh_quality(nodes, topology).radius_ratio.detach().cpu().numpy()
    axes.hist(ratio, bins=np.linspace(0, 1, 41), color="#0060b0")
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
