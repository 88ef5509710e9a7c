"""Charts: where every point of a mesh lies between the surfaces of its layers.

A chart has no size. A shape (`ball`, `ellipsoid`, `axon`) is a differentiable map from
its parameters and a chart to `Nodes`; the connectivity stays.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mrsim.tree import record


@record
class Chart:
    """Coordinates of the points of a layered round mesh: constants of every shape."""

    across: Tensor  # (point, 3) displacement from the axis for a radius of 1
    along: Tensor  # (point,) position along the axis, from −½ to ½; 0 in a ball
    weight: Tensor  # (point, layer) share of each layer's outer radius in the radius


def chart_radius(chart: Chart, radii: Tensor) -> Tensor:
    """Return the radius at every point, between those of the layers around it.

    Args:
        chart: coordinates.
        radii: (layer,) outer radius of each layer [mm], ascending; () for one layer.

    Returns:
        (point,) [mm].

    Raises:
        ValueError: the number of radii is not the number of layers.
    """
    layers = chart.weight.shape[-1]
    if radii.ndim > 1 or radii.numel() != layers:
        raise ValueError(
            f"radii must have shape (layer,) = ({layers},) to fit the chart, got"
            f" {tuple(radii.shape)}; map over a batch of shapes with vmap"
        )
    return (chart.weight.to(radii.dtype) * radii).sum(-1)


def level_weights(rings: Sequence[int], grading: float, like: Tensor) -> Tensor:
    """Return the shares of the layers' radii in the radius of every level.

    Args:
        rings: number of levels in each layer, from the inside.
        grading: above 1, levels crowd towards the outer surface of every layer.
        like: a tensor of the wanted dtype and device.

    Returns:
        (1 + Σ rings, layer); level 0 is the centre.
    """
    layers = len(rings)
    rows = [like.new_zeros(layers)]
    for j, count in enumerate(rings):
        for k in range(1, count + 1):
            t = 1 - (1 - k / count) ** grading
            row = [0.0] * layers
            row[j] = t
            if j:
                row[j - 1] = 1 - t
            rows.append(like.new_tensor(row))
    return torch.stack(rows)


def ring_counts(radii: Tensor, size: float, spacing: float = 1.0) -> tuple[int, ...]:
    """Return how many levels each layer needs for elements of a given size.

    Args:
        radii: (layer,) outer radii [mm], ascending.
        size: wanted length of edges [mm].
        spacing: distance of levels against the length of edges.

    Returns:
        At least one for each layer, and two in all.

    Raises:
        ValueError: radii do not ascend or the size is not positive.
    """
    # torch 2.6 does not list what grad has detached, but each item of it
    outer = [x.item() for x in radii.detach().reshape(-1)]
    gaps = [b - a for a, b in zip([0.0, *outer[:-1]], outer, strict=True)]
    if min(gaps) <= 0 or size <= 0:
        raise ValueError(
            f"radii must be positive and ascend and size be positive, got {outer} and"
            f" {size} mm"
        )
    counts = [max(1, round(gap / (size * spacing))) for gap in gaps]
    return (max(counts[0], 3 - len(counts)), *counts[1:])
