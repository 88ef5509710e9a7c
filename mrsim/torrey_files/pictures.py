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

    >>> from matplotlib.figure import Figure
    >>> from mrsim import torrey, torrey_files
    >>> axes = Figure().subplots()
    >>> torrey_files.draw_quality(axes, *torrey.mesh_sphere(5e-3, size=4e-3))
    >>> axes.get_xlabel()
    'radius ratio'
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

    >>> import torch
    >>> from matplotlib.figure import Figure
    >>> from mrsim import torrey_files
    >>> axes = Figure().subplots()
    >>> torrey_files.draw_history(axes, torch.tensor([1.0, 0.1, 0.02]))
    >>> axes.get_xlabel(), axes.get_yscale()
    ('step', 'log')
    """
    axes.semilogy(history.detach().cpu().numpy(), label=label)
    axes.set(xlabel="step", ylabel="loss")
