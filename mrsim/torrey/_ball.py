"""A ball of layers as a differentiable shape."""

from torch import Tensor

from mrsim.torrey.chart import Chart, chart_radius
from mrsim.torrey.mesh import Nodes
from mrsim.tree import record


@record
class Ball:
    """Concentric spheres about the origin."""

    radii: Tensor  # (layer,) outer radius of each layer [mm], ascending; or ()


def ball(chart: Chart, shape: Ball) -> Nodes:
    """Place the points of a `sphere_chart` in concentric spheres.

    Args:
        chart: coordinates.
        shape: the radii.

    Returns:
        Positions; the polyhedra have the volumes of the spheres.

    >>> import torch
    >>> from mrsim.torrey import _ball, _mesh_sphere
    >>> chart, topology = _mesh_sphere.sphere_chart((3,))
    >>> radii = torch.tensor([5e-3], dtype=torch.float64)
    >>> _ball.ball(chart, _ball.Ball(radii=radii)).points.shape
    torch.Size([147, 3])
    """
    radius = chart_radius(chart, shape.radii)
    return Nodes(points=chart.across.to(radius.dtype) * radius.unsqueeze(-1))
