"""A layered ellipsoid as a differentiable shape."""

from torch import Tensor

from mrsim.torrey.chart import Chart, chart_radius
from mrsim.torrey.mesh import Nodes
from mrsim.tree import neutral, record


@record
class Ellipsoid:
    """Concentric ellipsoids of one shape, axes along x, y and z."""

    axes: Tensor  # (3,) semi-axes of the outermost [mm]
    layers: Tensor | None = neutral(1.0)  # (layer,) sizes against it [1], up to 1


def ellipsoid(chart: Chart, shape: Ellipsoid) -> Nodes:
    """Place the points of a `sphere_chart` in concentric ellipsoids.

    Args:
        chart: coordinates.
        shape: the semi-axes.

    Returns:
        Positions; the polyhedra have the volumes of the ellipsoids.

    Raises:
        ValueError: there are not three axes.

    >>> import torch
    >>> from mrsim.torrey import _ellipsoid, _mesh_sphere
    >>> chart, topology = _mesh_sphere.sphere_chart((3,))
    >>> axes = torch.tensor([2e-3, 3e-3, 5e-3], dtype=torch.float64)
    >>> _ellipsoid.ellipsoid(chart, _ellipsoid.Ellipsoid(axes=axes)).points.shape
    torch.Size([147, 3])
    """
    if tuple(shape.axes.shape) != (3,):
        raise ValueError(
            f"ellipsoid: axes must have shape (3,), got {tuple(shape.axes.shape)}; map"
            f" over a batch of shapes with vmap"
        )
    one = shape.axes.new_ones(()) if shape.layers is None else shape.layers
    size = chart_radius(chart, one).unsqueeze(-1)
    return Nodes(points=chart.across.to(size.dtype) * size * shape.axes)
